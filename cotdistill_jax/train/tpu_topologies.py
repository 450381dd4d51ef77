"""TPU slices that need not be there: devices of a topology for which libtpu compiles on any Linux machine.

    v5e:2x4   eight chips of TPU v5e    v5p:2x2x4   sixteen of v5p    v4:2x2x1   four of v4, each one device of two cores

`libtpu` (the extra `tpu`) has the compiler; there need be no TPU. A program compiled for such devices cannot run here.
"""

import dataclasses
import difflib
import fcntl
import importlib.util
import math
import os
import pathlib
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_LOCK = pathlib.Path("/tmp/libtpu_lockfile")
_MEMORY = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A generation of TPUs.

    Attributes:
      chip: its name in `chips.CHIPS`.
      libtpu: its name in libtpu.
      slices: the chips of the slices that Google offers, along the axes of the torus, and one chip alone.
      options: what libtpu has to be told; a v4 chip is one device of two cores only when asked for.
    """

    chip: str
    libtpu: str
    slices: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


KINDS = {
    "v4": Kind("TPU v4", "v4", _CUBES, (("chip_config_name", "megacore"),)),
    "v5e": Kind("TPU v5e", "v5e", _FLAT),
    "v5p": Kind("TPU v5p", "v5p", _CUBES),
    "v6e": Kind("TPU v6e", "v6e", _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, such as eight chips of TPU v5e.

    Attributes:
      name: such as `v5e:2x4`.
      kind: of its chips.
      num_devices: how many chips; each is one device.
    """

    name: str
    kind: Kind
    num_devices: int


def parse(text: str) -> Topology:
    """Returns the topology that `v5e:2x4` names.

    Raises:
      ValueError: there is none such; the message lists those that come near.
    """
    kind, _, size = text.partition(":")
    if kind in KINDS and size in KINDS[kind].slices:
        return Topology(text, KINDS[kind], math.prod(map(int, size.split("x"))))
    if kind in KINDS:
        known = f"of {kind} there are {', '.join(f'{kind}:{name}' for name in KINDS[kind].slices)}"
    else:
        every = [f"{name}:{size}" for name, each in KINDS.items() for size in each.slices]
        close = difflib.get_close_matches(text, every, n=4, cutoff=0.6)
        known = f"did you mean {' or '.join(close)}? " if close else ""
        known += f"kinds: {', '.join(KINDS)}, each with a slice, such as v5e:2x4 or v5p:2x2x1"
    raise ValueError(f"topology: {text!r} is no slice of TPUs; {known}")


def devices(topology: Topology) -> list[Any]:
    """Returns the devices of a slice, for meshes to compile for.

    Raises:
      ValueError: libtpu is not installed, or its lock is another user's.
    """
    check_installed()
    _remove_stale_lock()
    # No metadata server is asked for a TPU that is not there; a run on this machine may hold libtpu at the same time.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options: dict[str, Any] = dict(topology.kind.options)
    if topology.num_devices == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    _, _, size = topology.name.partition(":")
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{topology.kind.libtpu}:{size}", **options
    )
    return list(described.devices)


def check_installed() -> None:
    """Raises ValueError where the TPU's compiler is not installed; the message says how it is."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "topology: no package libtpu, which has the TPU's compiler; in an environment of its own: "
            f'pip install "jax[tpu]=={jax.__version__}" --constraint scripts/constraints.txt   (no TPU is needed)'
        )


def usable_bytes(device: Any) -> float:
    """Returns the memory that programs may use on a device, from the refusal of one that is too large for all."""
    where = SingleDeviceSharding(device)
    huge = jax.ShapeDtypeStruct((2**40,), jnp.int8, sharding=where)
    try:
        jax.jit(lambda x: x + 1, out_shardings=where).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        if (refusal := refused_bytes(str(error))) is not None:
            return refusal[1]
        raise
    raise ValueError(
        f"topology: {device.device_kind} took an array of 1 TiB; its memory is not known"
    )


def refused_bytes(message: str) -> tuple[float, float] | None:
    """Returns (bytes needed, bytes there) of the compiler's refusal; None where a message is something else.

    >>> refused_bytes("... HLO temporaries (16.00G) exceeds available HBM (8.00G).")
    (17179869184.0, 8589934592.0)
    """
    match = _MEMORY.search(message) or _USED.search(message)
    if match is None:
        return None
    needed, unit, there, other = match.groups()
    return float(needed) * _UNITS[unit], float(there) * _UNITS[other]


def _remove_stale_lock() -> None:
    """Removes libtpu's lock file where no process holds it any more; says so, and where one does.

    Raises:
      ValueError: the file is another user's.
    """
    try:
        with _LOCK.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _LOCK.unlink()
    except FileNotFoundError:
        return
    except BlockingIOError:
        print(f"topology: another process holds {_LOCK}; compiling beside it", file=sys.stderr)
    except PermissionError as error:
        raise ValueError(
            f"topology: {_LOCK} is another user's; remove it (sudo rm {_LOCK}) when none of their processes uses libtpu"
        ) from error
    else:
        print(f"topology: removed {_LOCK}, left by a process that is gone", file=sys.stderr)
