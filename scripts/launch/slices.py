"""TPU slices by the names that Cloud TPU, GKE and xpk give them: chips, hosts, JAX devices, topology, machine type.

    v5litepod-16   16 chips, 4 hosts, 16 devices, 4x4     (v5e and v6e count chips)
    v5p-16         8 chips, 2 hosts, 8 devices, 2x2x2     (v2 to v5p and tpu7x count TensorCores, two a chip)
    tpu7x-16       8 chips, 2 hosts, 16 devices, 2x2x2    (a chip of v2, v3 and tpu7x is two devices)
    v5e:4x4        the same as v5litepod-16, as `scripts/plan_run.py` writes it

What a zone really has, `gcloud compute tpus accelerator-types list` and `gcloud compute machine-types list` say; the doctor asks them.
Sources, read in November 2026: docs.cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x}, .../tpus-in-compute-engine (v5p, v6e and
TPU7x; the Cloud TPU API is not supported on TPU7x and later), .../runtimes; image families: images of the project
`ubuntu-os-accelerator-images` as launchers on GitHub name them.
"""

import dataclasses
import difflib
import math
import re


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPUs.

    Attributes:
        cores: what a slice's name counts of a chip: 1 or 2.
        devices: JAX devices of a chip.
        topologies: of its slices, as chips along two or three axes.
        runtime: software version of the Cloud TPU API; None: this API does not know the chip.
        machine: machine type of a host of four chips on Compute Engine; None: not offered there.
        image: image family on Compute Engine.
        host_chips: sizes of a slice, in chips, that are one host; a larger slice has hosts of four chips.
    """

    cores: int
    devices: int
    topologies: tuple[str, ...]
    runtime: str | None
    machine: str | None = None
    image: str | None = None
    host_chips: tuple[int, ...] = (4,)


_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")  # fmt: skip
_OLDER = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
CHIPS = {
    "v2": Chip(2, 2, ("2x2", "4x4", "8x8", "8x16", "16x16"), "tpu-ubuntu2204-base"),
    "v3": Chip(2, 2, ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"), "tpu-ubuntu2204-base"),
    "v4": Chip(2, 1, (*_CUBES, "12x16x16"), "tpu-ubuntu2204-base"),
    "v5litepod": Chip(1, 1, _SQUARES, "v2-alpha-tpuv5-lite", host_chips=(1, 4, 8)),
    "v5p": Chip(2, 1, (*_CUBES, "16x16x16", "16x16x24"), "v2-alpha-tpuv5", "ct5p-hightpu-4t", _OLDER),
    "v6e": Chip(1, 1, _SQUARES, "v2-alpha-tpuv6e", "ct6e-standard-4t", _OLDER, (1, 4, 8)),
    "tpu7x": Chip(2, 2, _CUBES, None, "tpu7x-standard-4t", "ubuntu-accel-2404-amd64-tpu-tpu7x"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice, such as `v5litepod-16`."""

    name: str
    chip: Chip
    topology: str

    @property
    def num_chips(self) -> int:
        """Chips of all hosts."""
        return math.prod(int(size) for size in self.topology.split("x"))

    @property
    def num_hosts(self) -> int:
        """Machines, each with a process of its own."""
        return 1 if self.num_chips in self.chip.host_chips else self.num_chips // 4

    @property
    def num_devices(self) -> int:
        """What `jax.device_count()` says."""
        return self.num_chips * self.chip.devices

    @property
    def machine(self) -> str | None:
        """Machine type of a host on Compute Engine: its number of chips stands at the end."""
        chips = self.num_chips // self.num_hosts
        return self.chip.machine and self.chip.machine.replace("-4t", f"-{chips}t")


SLICES = {
    found.name: found
    for generation, chip in CHIPS.items()
    for topology in chip.topologies
    if (
        found := Slice(
            f"{generation}-{math.prod(map(int, topology.split('x'))) * chip.cores}", chip, topology
        )
    )
}


def find(name: str) -> Slice:
    """Returns the slice of a name, or of a generation and a topology.

    Raises:
        ValueError: there is none; the message has close matches and all sizes of that generation.
    """
    wanted = re.sub("^v5e(?=[-:])", "v5litepod", name)
    generation, _, topology = wanted.replace(":", "-").partition("-")
    same = [known for known in SLICES.values() if known.name.startswith(f"{generation}-")]
    for known in same:
        if wanted == known.name or (":" in wanted and topology == known.topology):
            return known
    if same:
        listed = ", ".join(f"{known.name} ({known.topology})" for known in same)
        raise ValueError(f"launch: there is no TPU slice {name}; {generation} comes as {listed}")
    close = difflib.get_close_matches(wanted, SLICES, n=3, cutoff=0.5)
    raise ValueError(
        f"launch: there is no TPU slice {name}; close: {', '.join(close) or 'none'}; generations: "
        f"{', '.join(CHIPS)} (a slice is GENERATION-NUMBER or GENERATION:TOPOLOGY, such as v5p-16 or v5p:2x2x2)"
    )
