"""Says what a run will need on meshes of accelerators that need not be there: memory, FLOPs, traffic, time, fit.

    python scripts/plan_run.py --gin_file=gin/experiments/gsm8k_teacher_xl.gin --mesh=data=4,fsdp=2,model=1 --mesh=fsdp=16
    python scripts/plan_run.py --gin_file=gin/experiments/gsm8k_teacher_xl.gin --devices=8 --chip=H100    # the mesh that None chooses

    python scripts/plan_run.py --gin_file=gin/experiments/gsm8k_teacher_xl.gin --compile=v5e:2x4    # what the TPU's own compiler says

No weights are read and nothing is trained; a mesh of 16 devices compiles on a laptop. `--gin.NAME=VALUE` as for training.
`--compile` needs the package libtpu (`pip install "jax[tpu]"`) and no TPU; it takes minutes, one process at a time.
"""

import dataclasses
import importlib.util
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from cotdistill_jax import command, files

if TYPE_CHECKING:
    from cotdistill_jax.train.compiled_plan import CompiledPlan
    from cotdistill_jax.train.planning import Needs
    from cotdistill_jax.train.recipe import Recipe
    from cotdistill_jax.train.tpu_topologies import Topology

_FILES = flags.DEFINE_multi_string("gin_file", None, "Experiment leaf and overlays.", required=True)
_MESHES = flags.DEFINE_multi_string(
    "mesh", [], "Devices per axis, such as data=4,fsdp=2,model=1; repeat it for several."
)
_DEVICES = flags.DEFINE_integer(
    "devices",
    None,
    "Without --mesh: devices of the mesh that MESH_SHAPE = None chooses.",
    lower_bound=1,
)
_CHIP = flags.DEFINE_string(
    "chip", "A100 40GB", "Accelerator that --devices counts, whose memory the choice minds."
)
_FULL = flags.DEFINE_bool(
    "compile_all_layers", False, "Compile the whole network instead of one and two layers of it."
)
_COMPILE = flags.DEFINE_string(
    "compile",
    None,
    "Slice of TPUs to compile the run's programs for, such as v5e:2x4; none need be there.",
)
_STEP_ONLY = flags.DEFINE_bool("step_only", False, "With --compile: not the evaluation's decoding.")
_PLAN = flags.DEFINE_bool(
    "plan", True, "With --compile: also plan, to say by how much the plan misses."
)
_T5X = flags.DEFINE_bool(
    "t5x", False, "With --compile: also T5X's own step, whose layers are not scanned."
)
_JSON = flags.DEFINE_string("json", None, "With --compile: also write the figures to this file.")
AXES = ("data", "fsdp", "model")


def parse_mesh(text: str) -> tuple[int, ...]:
    """Returns (data, fsdp, model); an axis that is not named has one device."""
    sizes = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in sizes or not size.isdigit() or size == "0":
            raise ValueError(f"plan_run: --mesh={text}: {part!r} is not one of {AXES} = a number")
        sizes[name] = int(size)
    return tuple(sizes.values())


def report(text: str, needs: "Needs", dtype: object) -> None:
    """Prints one mesh's needs and one line per chip."""
    from cotdistill_jax.train import chips

    gib = {
        "parameters": needs.parameter_bytes,
        "optimizer": needs.optimizer_bytes,
        "gradients": needs.gradient_bytes,
        "batch": needs.batch_bytes,
        "activations on a TPU": needs.activation_bytes,
        "on a GPU": needs.gpu_activation_bytes,
        "together on a TPU": needs.bytes_on("TPU"),
        "together on a GPU": needs.bytes_on("GPU"),
    }
    print(
        f"\nmesh {text}: GiB per device: "
        + ", ".join(f"{k} {v / chips.GIB:.2f}" for k, v in gib.items())
    )
    sent = ", ".join(f"{k} {v / chips.GIB:.2f} GiB" for k, v in needs.collectives.items()) or "none"
    print(f"per device and step: {needs.flops / 1e12:.2f} TFLOP; collectives: {sent}")
    for chip in chips.CHIPS:
        fit = "fits" if needs.fits(chip) else "does not fit"
        peak = chip.memory_bytes / chips.GIB
        print(
            f"  {chip.name:10} {fit:13} in {peak:5.1f} GiB, {needs.seconds(chip, dtype):8.2f} s a step  [{chip.source}]"
        )


def in_words(shape: Sequence[int]) -> str:
    """Returns (1, 8, 1) as `data=1,fsdp=8,model=1`."""
    return ",".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))


def report_compiled(found: "CompiledPlan") -> None:
    """Prints what the TPU's compiler says of a run, and the plan beside it."""
    from cotdistill_jax.train import chips

    def gib(size: float) -> str:
        return f"{size / chips.GIB:.2f} GiB"

    print(f"\n{found.topology}, mesh {in_words(found.shape)} ({found.why}), {found.versions}")
    rows = {"step": found.step, **found.decoding}
    for name, program in rows.items():
        verdict = "fits" if program.fits and program.bytes <= found.usable_bytes else "DOES NOT FIT"
        beside = program.beside_bytes
        resident = (
            f", of which {gib(beside)} the run's state and weights beside it" if beside else ""
        )
        print(
            f"  {name}: {verdict}: {gib(program.bytes)} of {gib(found.usable_bytes)} a device{resident}; "
            f"compiled in {program.compile_seconds:.0f} s"
        )
        for kind, traffic in program.collectives.items():
            print(f"    {kind}: {traffic.count} of together {gib(traffic.bytes)}")
    layout = {True: "as the step takes them", False: "NOT as the step takes them", None: "the step was refused"}  # fmt: skip
    name, size = found.restored.largest
    print(
        f"  restored checkpoint: {found.restored.num_arrays} arrays, {gib(found.restored.bytes)} a device, laid out "
        f"{layout[found.restored.as_in_step]}; the largest part is {name} with {gib(size)}"
    )
    if found.plan is not None:
        print(
            f"  plan: {gib(found.plan.bytes_on('TPU'))} for the step, {found.miss:+.1%} beside the compiler"
        )


def report_t5x(recipe: "Recipe", topology: "Topology", shape: tuple[int, ...]) -> None:
    """Compiles T5X's own step for a mesh of a slice, and prints what the compiler says."""
    if importlib.util.find_spec("t5x") is None:
        raise ValueError("plan_run: --t5x: t5x is not installed; bash scripts/install_t5x.sh")
    import tasks  # noqa: F401  (registers the mixtures, whose vocabulary the model asks for)
    from cotdistill_jax import partitioning
    from cotdistill_jax.t5x_model import ahead
    from cotdistill_jax.train import chips, tpu_compile, tpu_topologies

    lowered = ahead.lower_step(
        partitioning.make_mesh(shape, tpu_topologies.devices(topology)),
        dataclasses.replace(recipe.config, scan_layers=False),
        recipe.mixture_or_task_name,
        recipe.optimizer,
        recipe.loss_fn,
        recipe.batch,
        recipe.num_microbatches,
        recipe.num_loss_chunks,
    )
    program, _ = tpu_compile.compile_program(lowered)
    verdict = "fits" if program.fits else "DOES NOT FIT"
    print(
        f"  T5X's step, layers not scanned: {verdict}: {program.bytes / chips.GIB:.2f} GiB a device; "
        f"compiled in {program.compile_seconds:.0f} s"
    )


def compile_for_tpu(
    recipe: "Recipe", topology: "Topology", shapes: Sequence[tuple[int, ...]]
) -> None:
    """Compiles a leaf for a slice and meshes; prints and writes what the compiler says."""
    from cotdistill_jax.train import compiled_plan

    print(f"{', '.join(_FILES.value)} for {topology.num_devices} x {topology.kind.chip}")
    results = []
    for shape in shapes or [None]:
        found = compiled_plan.make(
            recipe,
            topology,
            shape,
            decode=not _STEP_ONLY.value,
            plan=_PLAN.value,
            say=lambda text: print(text, flush=True),
        )
        report_compiled(found)
        results.append(
            {"gin_files": _FILES.value, "bindings": _BINDINGS, **dataclasses.asdict(found)}
        )
    if _JSON.value:
        files.as_path(_JSON.value).write_text(
            json.dumps(results, indent=1) + "\n", encoding="utf-8"
        )


def main(unparsed: Sequence[str]) -> None:
    if len(unparsed) > 1:
        raise app.UsageError(f"plan_run: unexpected arguments {list(unparsed[1:])}")
    shapes = {text: parse_mesh(text) for text in _MESHES.value}
    if shapes and _DEVICES.value:
        raise app.UsageError("plan_run: give --mesh or --devices, not both")
    if _COMPILE.value and _DEVICES.value:
        raise app.UsageError("plan_run: --compile says how many devices; leave --devices out")
    devices = max([math.prod(shape) for shape in shapes.values()] or [_DEVICES.value or 1])
    os.environ["JAX_PLATFORMS"] = "cpu"
    topology = None
    if _COMPILE.value:
        from cotdistill_jax.train import tpu_topologies

        topology = tpu_topologies.parse(_COMPILE.value)
        tpu_topologies.check_installed()
        devices = topology.num_devices
    # Before JAX starts: so many simulated devices.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax

    from cotdistill_jax import partitioning
    from cotdistill_jax.train import chips, planning, recipe

    leaf = recipe.read(_FILES.value, _BINDINGS)
    if topology:
        compile_for_tpu(leaf, topology, list(shapes.values()))
        return
    if not shapes:
        known = {chip.name: chip for chip in chips.CHIPS}
        if _CHIP.value not in known:
            raise ValueError(f"plan_run: --chip={_CHIP.value} is none of {', '.join(known)}")
        shape, why = planning.choose_shape(
            devices,
            leaf.config,
            leaf.batch_size,
            leaf.num_microbatches,
            known[_CHIP.value].memory_bytes,
        )
        text = in_words(shape)
        print(f"MESH_SHAPE = None chooses {text} for {devices} x {_CHIP.value}: {why}")
        shapes = {text: shape}
    for shape in shapes.values():
        mesh = partitioning.make_mesh(shape, jax.devices()[: math.prod(shape)])
        partitioning.check_mesh(mesh, leaf.config, leaf.batch_size, leaf.num_microbatches)
    how = (
        "all layers compiled, the inside of loops counted once"
        if _FULL.value
        else "compiled with one and two layers a stack, the rest in a straight line"
    )
    if leaf.config.scan_layers and not _FULL.value:
        how += "; memory of the whole program"
    print(
        f"{', '.join(_FILES.value)}: {leaf.batch_size} rows a step in {leaf.num_microbatches} parts; {how}"
    )
    print(
        f"predicted time: products at {planning.UTILISATION:.0%} of the peak, then collectives, not overlapped"
    )
    for text, shape in shapes.items():
        mesh = partitioning.make_mesh(shape, jax.devices()[: math.prod(shape)])
        needs = (planning.measure if _FULL.value else planning.estimate)(
            mesh,
            leaf.config,
            leaf.loss_fn,
            leaf.optimizer,
            leaf.batch,
            leaf.num_microbatches,
            leaf.num_loss_chunks,
        )
        report(text, needs, leaf.config.dtype)


if __name__ == "__main__":
    _BINDINGS = [
        f"{name} = {value}"
        for name, _, value in (
            argument.removeprefix("--gin.").partition("=")
            for argument in sys.argv
            if argument.startswith("--gin.")
        )
    ]
    command.run(
        app.run,
        main,
        argv=[argument for argument in sys.argv if not argument.startswith("--gin.")],
    )
