"""Says what a run will need on meshes of accelerators that need not be there: memory, FLOPs, traffic, time, fit.

    python scripts/plan_run.py --gin_file=gin/experiments/gsm8k_teacher_xl.gin --mesh=data=4,fsdp=2,model=1 --mesh=fsdp=16
    python scripts/plan_run.py --gin_file=gin/experiments/gsm8k_teacher_xl.gin --devices=8 --chip=H100    # the mesh that None chooses

No weights are read and nothing is trained; a mesh of 16 devices compiles on a laptop. `--gin.NAME=VALUE` as for training.
"""

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from cotdistill_jax import command

if TYPE_CHECKING:
    from cotdistill_jax.train.planning import Needs

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
        "activations": needs.activation_bytes,
        "batch": needs.batch_bytes,
        "together": needs.bytes,
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


def main(unparsed: Sequence[str]) -> None:
    if len(unparsed) > 1:
        raise app.UsageError(f"plan_run: unexpected arguments {list(unparsed[1:])}")
    shapes = {text: parse_mesh(text) for text in _MESHES.value}
    if shapes and _DEVICES.value:
        raise app.UsageError("plan_run: give --mesh or --devices, not both")
    devices = max([math.prod(shape) for shape in shapes.values()] or [_DEVICES.value or 1])
    # Before JAX starts: so many simulated devices.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import gin
    import jax

    from cotdistill_jax import network, partitioning
    from cotdistill_jax.train import chips, gin_config, optimizers, planning

    gin_config.parse([*_FILES.value, "gin/runs/finetune.gin"], [*_BINDINGS, "MODEL_DIR = 'none'"])
    macro = {name: gin.query_parameter(f"{name}/macro.value") for name in (
        "TASK_FEATURE_LENGTHS", "BATCH_SIZE", "NUM_MICROBATCHES", "NUM_LOSS_CHUNKS", "PACK", "LOSS_FN")}  # fmt: skip
    config = gin.get_configurable(network.T5Config)()
    optimizer = gin.get_configurable(optimizers.chain)()
    loss_fn = macro["LOSS_FN"].scoped_configurable_fn
    batch = planning.abstract_batch(
        macro["TASK_FEATURE_LENGTHS"], macro["BATCH_SIZE"], macro["PACK"]
    )
    if loss_fn.__name__ == "unlikelihood":
        batch["decoder_targets_negative"] = batch["decoder_target_tokens"]
    if not shapes:
        known = {chip.name: chip for chip in chips.CHIPS}
        if _CHIP.value not in known:
            raise ValueError(f"plan_run: --chip={_CHIP.value} is none of {', '.join(known)}")
        shape, why = planning.choose_shape(
            devices,
            config,
            macro["BATCH_SIZE"],
            macro["NUM_MICROBATCHES"],
            known[_CHIP.value].memory_bytes,
        )
        text = ",".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
        print(f"MESH_SHAPE = None chooses {text} for {devices} x {_CHIP.value}: {why}")
        shapes = {text: shape}
    for shape in shapes.values():
        mesh = partitioning.make_mesh(shape, jax.devices()[: math.prod(shape)])
        partitioning.check_mesh(mesh, config, macro["BATCH_SIZE"], macro["NUM_MICROBATCHES"])
    how = (
        "all layers compiled, the inside of loops counted once"
        if _FULL.value
        else "compiled with one and two layers a stack, the rest in a straight line"
    )
    if config.scan_layers and not _FULL.value:
        how += "; memory of the whole program"
    print(
        f"{', '.join(_FILES.value)}: {macro['BATCH_SIZE']} rows a step in {macro['NUM_MICROBATCHES']} parts; {how}"
    )
    print(
        f"predicted time: products at {planning.UTILISATION:.0%} of the peak, then collectives, not overlapped"
    )
    for text, shape in shapes.items():
        mesh = partitioning.make_mesh(shape, jax.devices()[: math.prod(shape)])
        needs = (planning.measure if _FULL.value else planning.estimate)(
            mesh,
            config,
            loss_fn,
            optimizer,
            batch,
            macro["NUM_MICROBATCHES"],
            macro["NUM_LOSS_CHUNKS"],
        )
        report(text, needs, config.dtype)


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
