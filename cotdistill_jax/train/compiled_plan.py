"""A leaf on a slice of TPUs: what the TPU's compiler says of its programs, and what the plan had said."""

import dataclasses
import datetime
import importlib.metadata
import math
from collections.abc import Callable, Mapping

import jax

from cotdistill_jax import partitioning
from cotdistill_jax.train import chips, planning, tpu_compile, tpu_topologies
from cotdistill_jax.train.recipe import Recipe
from cotdistill_jax.train.tpu_compile import Program, Restored


@dataclasses.dataclass(frozen=True)
class CompiledPlan:
    """Figures of one leaf, slice and mesh; memory is that of a device.

    Attributes:
      topology: such as `v5e:2x4`.
      shape: devices along (data, fsdp, model).
      why: who chose the mesh, and why.
      usable_bytes: what the compiler lets programs use.
      plan: what `planning` says of the step; None where it was not asked for.
      step: the training step.
      restored: the layout of a restored checkpoint.
      decoding: the programs of the evaluation, by name; empty where they were not asked for.
      versions: of the compiler, and the date.
    """

    topology: str
    shape: tuple[int, ...]
    why: str
    usable_bytes: float
    plan: planning.Needs | None
    step: Program
    restored: Restored
    decoding: Mapping[str, Program]
    versions: str

    @property
    def miss(self) -> float | None:
        """By which part of the compiler's figure the plan is too high, or, negative, too low."""
        return None if self.plan is None else self.plan.bytes_on("TPU") / self.step.peak_bytes - 1

    @property
    def fits(self) -> bool:
        """Whether all programs fit, with what the run keeps beside them."""
        return all(
            program.fits and program.bytes <= self.usable_bytes
            for program in (self.step, *self.decoding.values())
        )


def make(
    recipe: Recipe,
    topology: tpu_topologies.Topology,
    shape: tuple[int, ...] | None = None,
    *,
    decode: bool = True,
    plan: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> CompiledPlan:
    """Returns the figures of a leaf on a slice.

    Args:
      recipe: the leaf.
      topology: the slice.
      shape: (data, fsdp, model); None: the leaf's MESH_SHAPE, and where that is None what it chooses.
      decode: whether the evaluation's programs are compiled, too.
      plan: whether the plan is made, too, which compiles for CPUs.
      say: called with what is known already, as compiling takes minutes.

    Raises:
      ValueError: no libtpu, or a mesh that does not divide network, batch or slice.
    """
    devices = tpu_topologies.devices(topology)
    usable = tpu_topologies.usable_bytes(devices[0])
    shape, why = _shape(recipe, len(devices), usable, shape)
    mesh = partitioning.make_mesh(shape, devices)
    partitioning.check_mesh(mesh, recipe.config, recipe.batch_size, recipe.num_microbatches)
    state = tpu_compile.abstract_state(mesh, recipe)
    program, restored = tpu_compile.compile_step(mesh, recipe, state)
    verdict = "fits" if program.fits else "does not fit"
    say(
        f"step on {topology.name} {tuple(mesh.devices.shape)}: {verdict}, {program.bytes / chips.GIB:.2f} of {usable / chips.GIB:.2f} GiB"
    )
    return CompiledPlan(
        topology=topology.name,
        shape=tuple(mesh.devices.shape),
        why=why,
        usable_bytes=usable,
        plan=_planned(recipe, tuple(mesh.devices.shape)) if plan else None,
        step=program,
        restored=restored,
        decoding=tpu_compile.compile_decoding(mesh, recipe, state) if decode else {},
        versions=versions(),
    )


def versions() -> str:
    """Returns the date and the versions that a figure depends on."""
    names = ("jax", "jaxlib", "libtpu")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {found}"


def _shape(
    recipe: Recipe, num_devices: int, usable_bytes: float, shape: tuple[int, ...] | None
) -> tuple[tuple[int, ...], str]:
    if shape is not None:
        return shape, "given"
    if recipe.mesh_shape is not None:
        return recipe.mesh_shape, "MESH_SHAPE"
    chosen, why = planning.choose_shape(
        num_devices, recipe.config, recipe.batch_size, recipe.num_microbatches, usable_bytes
    )
    return chosen, f"MESH_SHAPE = None: {why}"


def _planned(recipe: Recipe, shape: tuple[int, ...]) -> planning.Needs:
    """Returns the plan for as many simulated devices.

    Raises:
      ValueError: this process has fewer.
    """
    present, wanted = jax.devices("cpu"), math.prod(shape)
    if len(present) < wanted:
        raise ValueError(
            f"plan: {len(present)} simulated devices for a mesh of {wanted}; "
            f"set XLA_FLAGS=--xla_force_host_platform_device_count={wanted} before JAX starts"
        )
    return planning.estimate(
        partitioning.make_mesh(shape, present[:wanted]),
        recipe.config,
        recipe.loss_fn,
        recipe.optimizer,
        recipe.batch,
        recipe.num_microbatches,
        recipe.num_loss_chunks,
    )
