"""Which accelerators this machine has, whatever JAX was installed for; needs Python alone.

Run as a script it prints the extra of setup.py for them, `cuda`, `tpu` or nothing, and on standard error what was found:
scripts/environment.sh asks it before anything is installed.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

VARIABLE = "COTDISTILL_ACCELERATOR"
EXTRAS = {"cuda": "cuda", "tpu": "tpu", "none": ""}
_GOOGLE = "0x1ae0"
# As jax/_src/hardware_utils.py lists them; Google's virtual network card has the same vendor.
_TPU_CHIPS = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076", "0x0083", "0x007c"}  # fmt: skip
_NVIDIA_SMI_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Devices of one maker in this machine.

    Attributes:
      extra: of setup.py, `cuda` or `tpu`.
      platform: JAX's name for them, `gpu` or `tpu`.
      description: `8 x NVIDIA H100`, or the device files by which they were known.
    """

    extra: str
    platform: str
    description: str


def find(root: pathlib.Path = pathlib.Path("/")) -> Accelerator | None:
    """Returns the machine's accelerators, or None; by the program nvidia-smi, the device files and the PCI bus.

    Args:
      root: of the file system.
    """
    names = _nvidia_smi()
    files = sorted(str(file) for file in root.glob("dev/nvidia[0-9]*"))
    if names or files:
        return Accelerator("cuda", "gpu", _counted(names) if names else ", ".join(files))
    files = sorted(str(file) for file in root.glob("dev/accel[0-9]*"))
    if not files and any(_tpu_chips(root)):
        files = sorted(str(file) for file in root.glob("dev/vfio/[0-9]*"))
    if files:
        return Accelerator("tpu", "tpu", f"a TPU ({', '.join(files)})")
    return None


def wanted() -> str | None:
    """Returns the extra that the variable COTDISTILL_ACCELERATOR asks for, "" for none, or None where it is not set.

    Raises:
      ValueError: it is set to something else.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    if value not in EXTRAS:
        raise ValueError(f"environment: {VARIABLE}={value!r}; expected one of {', '.join(EXTRAS)}")
    return EXTRAS[value]


def _nvidia_smi() -> list[str]:
    """Returns the model of each GPU; none where the program is missing, finds none or does not answer."""
    command = ["nvidia-smi", "-L"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=False
        )
    except OSError:
        return []
    except subprocess.TimeoutExpired:
        print(f"environment: `nvidia-smi -L` has not answered in {_NVIDIA_SMI_SECONDS} s", file=sys.stderr)  # fmt: skip
        return []
    if listed.returncode:
        return []
    return re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", listed.stdout, re.MULTILINE)


def _counted(names: list[str]) -> str:
    """Returns ["A", "A"] as "2 x A"."""
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _tpu_chips(root: pathlib.Path) -> Iterator[str]:
    for vendor in root.glob("sys/bus/pci/devices/*/vendor"):
        device = (vendor.parent / "device").read_text().strip()
        if vendor.read_text().strip() == _GOOGLE and device in _TPU_CHIPS:
            yield device


def main() -> None:
    """Prints the extra to install, and in words why."""
    found = find()
    said = found.description if found else "no NVIDIA GPU and no TPU"
    extra = wanted()
    if extra is None:
        print(f"environment: found {said}", file=sys.stderr)
        extra = found.extra if found else ""
    else:
        print(f"environment: found {said}; {VARIABLE}={os.environ[VARIABLE]}", file=sys.stderr)
    print(extra)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
