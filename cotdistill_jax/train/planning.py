"""What a run needs, known before it starts: the training step is compiled ahead of time for a simulated mesh.

Parameters and optimizer state are counted from shapes and shardings, exactly. FLOPs, activation memory and collectives
are XLA's own figures for the compiled program of one device. As a 24-layer step takes long to compile, `estimate`
compiles one and two layers and goes on in a straight line; `measure` compiles what it is given.

Limits: XLA's CPU compiler stands in for the accelerator's. It widens bfloat16 activations to float32 where it multiplies
matrices, it does not make reduce-scatters, and it fuses otherwise: activations are an upper estimate, collectives too.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cotdistill_jax import network, partitioning
from cotdistill_jax.losses import LossFn
from cotdistill_jax.train import step
from cotdistill_jax.train.chips import Chip

UTILISATION = 0.4  # of the peak: what well-tuned T5 training reaches on TPUs and GPUs
USABLE_MEMORY = 0.9  # the rest goes to the runtime and to fragmentation
_TEACHER_K = 5
_COLLECTIVE = re.compile(
    r"= (?P<result>\([^)]*\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"(?P<type>pred|[a-z]+(?P<bits>\d+))\[(?P<shape>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Needs:
    """What one device needs for one optimizer step.

    Attributes:
      parameter_bytes: its part of the parameters.
      optimizer_bytes: its part of the optimizer state.
      batch_bytes: its part of the batch.
      temporary_bytes: activations, gradients and buffers of collectives.
      flops: floating-point operations.
      collectives: kind -> bytes of the arrays that come out of such operations.
    """

    parameter_bytes: float
    optimizer_bytes: float
    batch_bytes: float
    temporary_bytes: float
    flops: float
    collectives: Mapping[str, float]

    @property
    def bytes(self) -> float:
        """All of its memory."""
        return self.parameter_bytes + self.optimizer_bytes + self.batch_bytes + self.temporary_bytes

    def fits(self, chip: Chip) -> bool:
        """Returns whether nine tenths of the chip's memory hold it."""
        return self.bytes <= USABLE_MEMORY * chip.memory_bytes

    def seconds(self, chip: Chip, dtype: Any) -> float:
        """Returns the predicted time of a step: products at 40 % of the peak, then collectives, not overlapped.

        An all-reduce sends its bytes twice (it scatters and gathers), the others once.
        """
        peak = chip.bf16_flops if jnp.dtype(dtype) == jnp.bfloat16 else chip.float32_flops
        sent = sum(
            size * (2 if kind == "all-reduce" else 1) for kind, size in self.collectives.items()
        )
        return self.flops / (UTILISATION * peak) + sent / chip.link_bytes


def abstract_batch(
    lengths: Mapping[str, int], batch_size: int, pack: bool = True
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch.

    Args:
      lengths: TASK_FEATURE_LENGTHS; with `teacher_ids` the teacher's distribution is part of the batch.
      batch_size: rows over all hosts.
      pack: whether rows hold several examples.
    """
    sides = {"encoder": lengths["inputs"], "decoder": lengths["targets"]}
    names = {
        "encoder": ["input_tokens"],
        "decoder": ["input_tokens", "target_tokens", "loss_weights"],
    }
    shapes = {
        f"{side}_{name}": jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
        for side, length in sides.items()
        for name in [*names[side], *(["segment_ids", "positions"] if pack else [])]
    }
    if "teacher_ids" in lengths:
        teacher = (batch_size, lengths["targets"], _TEACHER_K)
        shapes["decoder_teacher_ids"] = jax.ShapeDtypeStruct(teacher, jnp.int32)
        shapes["decoder_teacher_probs"] = jax.ShapeDtypeStruct(teacher, jnp.float32)
    return shapes


def measure(
    mesh: Mesh,
    config: network.T5Config,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    batch: Mapping[str, jax.ShapeDtypeStruct],
) -> Needs:
    """Returns the needs of a step over the whole batch at once, from compiling it; nothing is computed.

    Args:
      mesh: devices, simulated ones too.
      config: dimensions of the network.
      loss_fn: as in the run.
      optimizer: as in the run.
      batch: from `abstract_batch`.
    """
    state = jax.eval_shape(lambda: step.init_state(mesh, config, optimizer, seed=0))
    shardings = step.state_shardings(mesh, config, optimizer)
    train_step: Any = step.make_train_step(mesh, config, loss_fn, optimizer)
    compiled = train_step.lower(state, batch).compile()
    rows = partitioning.batch_sharding(mesh)
    costs = compiled.cost_analysis()
    return Needs(
        parameter_bytes=_device_bytes(state.params, shardings.params),
        optimizer_bytes=_device_bytes(state.opt_state, shardings.opt_state),
        batch_bytes=_device_bytes(batch, {name: rows for name in batch}),
        temporary_bytes=float(compiled.memory_analysis().temp_size_in_bytes),
        flops=float(costs["flops"]),
        collectives=collective_bytes(compiled.as_text()),
    )


def estimate(
    mesh: Mesh,
    config: network.T5Config,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    num_microbatches: int = 1,
) -> Needs:
    """Returns the needs of a deep network's step, from compiling it with one and with two layers a stack.

    Layers are compiled unrolled: XLA counts the body of a loop once. Microbatches multiply FLOPs and collectives; they
    cost the memory of one microbatch and of one more copy of the gradient.

    Raises:
      ValueError: encoder and decoder differ in depth, or microbatches do not divide the batch.
    """
    depth = config.num_encoder_layers
    size = batch["encoder_input_tokens"].shape[0]
    if config.num_decoder_layers != depth or size % num_microbatches:
        raise ValueError(
            f"planning: {depth} encoder and {config.num_decoder_layers} decoder layers, {size} rows in "
            f"{num_microbatches} microbatches; expected equal depths and equal parts"
        )
    part = {
        name: jax.ShapeDtypeStruct((size // num_microbatches, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in batch.items()
    }
    shallow, deeper = (
        measure(
            mesh,
            dataclasses.replace(
                config, num_encoder_layers=layers, num_decoder_layers=layers, scan_layers=False
            ),
            loss_fn,
            optimizer,
            part,
        )
        for layers in (1, 2)
    )

    def line(one: float, two: float) -> float:
        return one + (depth - 1) * (two - one)

    kinds = sorted({*shallow.collectives, *deeper.collectives})
    parameters = line(shallow.parameter_bytes, deeper.parameter_bytes)
    gradient = parameters if num_microbatches > 1 else 0.0
    return Needs(
        parameter_bytes=parameters,
        optimizer_bytes=line(shallow.optimizer_bytes, deeper.optimizer_bytes),
        batch_bytes=shallow.batch_bytes * num_microbatches,
        temporary_bytes=line(shallow.temporary_bytes, deeper.temporary_bytes) + gradient,
        flops=line(shallow.flops, deeper.flops) * num_microbatches,
        collectives={
            kind: num_microbatches
            * max(0.0, line(shallow.collectives.get(kind, 0.0), deeper.collectives.get(kind, 0.0)))
            for kind in kinds
        },
    )


def collective_bytes(hlo: str) -> dict[str, float]:
    """Returns, per kind of collective in a compiled program's text, the bytes of its results.

    >>> collective_bytes("%a = f32[4,2]{1,0} all-reduce(f32[4,2]{1,0} %b), channel_id=1")
    {'all-reduce': 32.0}
    """
    found: dict[str, float] = collections.defaultdict(float)
    for match in _COLLECTIVE.finditer(hlo):
        for array in _ARRAY.finditer(match["result"]):
            numbers = [int(size) for size in array["shape"].split(",") if size]
            found[match["kind"]] += math.prod(numbers) * int(array["bits"] or 8) / 8
    return dict(found)


def _device_bytes(tree: Any, shardings: Any) -> float:
    """Returns the bytes of one device's part of the arrays of a tree."""
    sizes = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        tree,
        shardings,
    )
    return float(sum(jax.tree.leaves(sizes)))
