"""The one line in which every command says what it computes on, and the loud one where an accelerator lies idle."""

import os
import sys

import jax

from cotdistill_jax import accelerators


def announce() -> None:
    """Prints `devices: 8 x TPU v5e on 2 hosts`, from the first process alone, and from each what it has but does not use.

    Call it after `jax.distributed.initialize`: it starts JAX's backend.
    """
    if jax.process_index() == 0:
        print(f"devices: {summary()}", flush=True)
    unused = idle()
    if unused:
        print(unused, file=sys.stderr, flush=True)


def summary() -> str:
    """Returns the devices that JAX computes on, of all processes: `1 x CPU`, `4 x NVIDIA H100 on 2 hosts`."""
    names = [name(device) for device in jax.devices()]
    counted = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    # JAX knows processes; those of one host are told apart by no device.
    several = jax.process_count()
    return f"{counted} in {several} processes" if several > 1 else counted


def idle() -> str | None:
    """Returns what to do about an accelerator that is in this machine and that JAX does not use, or None.

    None, too, where somebody chose so, by COTDISTILL_ACCELERATOR=none, or by JAX_PLATFORMS or CUDA_VISIBLE_DEVICES.
    """
    platform = jax.default_backend()
    if platform != "cpu" or jax.config.jax_platforms == "cpu" or accelerators.wanted() == "":
        return None
    found = accelerators.find()
    if found is None or (found.extra == "cuda" and os.environ.get("CUDA_VISIBLE_DEVICES") == ""):
        return None
    return (
        f"WARNING: {found.description} in this machine is NOT USED: JAX {jax.__version__} computes on the CPU. Install it by "
        f"`source scripts/environment.sh {found.extra}` (or pip install 'jax[{_JAX_EXTRAS[found.extra]}]=={jax.__version__}'); "
        f"if that is done, look at its driver (nvidia-smi) or for another process that holds it. JAX_PLATFORMS=cpu chooses the CPU"
    )


_JAX_EXTRAS = {"cuda": "cuda12", "tpu": "tpu"}


def name(device: jax.Device) -> str:
    """Returns `CPU`, `NVIDIA H100 80GB HBM3`, `TPU v5e`."""
    kind = device.device_kind
    return {"cpu": "CPU", "TPU v5 lite": "TPU v5e", "TPU v6 lite": "TPU v6e", "TPU v5": "TPU v5p"}.get(kind, kind)  # fmt: skip
