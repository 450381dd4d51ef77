"""What a run needs, known before it starts: the training step is compiled ahead of time for a simulated mesh.

Parameters and optimizer state are counted from shapes and shardings, exactly. FLOPs, activation memory and collectives
are XLA's own figures for the compiled program of one device. XLA counts the body of a loop once, and a 24-layer step takes
long to compile, so `estimate` takes FLOPs and collectives from one and two unrolled layers and goes on in a straight line.
Memory is that of the real program where its layers are scanned, which compiles fast, else of a straight line, too.

Limits: XLA's CPU compiler stands in for the accelerator's. It widens bfloat16 activations to float32 where it multiplies
matrices, it does not make reduce-scatters, it fuses otherwise, and what unrolled layers compute again to save memory it computes
too early to save any: activations are an upper estimate, collectives too. So where a bfloat16 run
stores activations (REMAT = 'none' or 'dots'), the plan for TPUs counts 0.47 of what the CPU's program holds. That is fitted to what the TPU's
own compiler (`tpu_compile`) says of two leaves, large on v4 and XL on v4. Of the 22 rows of `scripts/compiled_plans.md` 19 are planned within
10 %; XL in-context is 12 % too low, XXL for 16 GiB 24 % and the verifier 32 % too high. For GPUs the plan counts the whole: base took 27.46 GiB
of an H100 where 26.5 were planned, large 19.15 of 22.0. That is by the CPU compiler of jax 0.10.2; that of 0.11.2 holds less (large, planned
for an H100: 18.9), so plans made there are lower.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cotdistill_jax import network, partitioning
from cotdistill_jax.checkpoints import abstract_variables
from cotdistill_jax.losses import LossFn
from cotdistill_jax.train import collectives, step
from cotdistill_jax.train.chips import Chip

UTILISATION = 0.4  # of the peak: what well-tuned T5 training reaches on TPUs and GPUs
USABLE_MEMORY = 0.9  # the rest goes to the runtime and to fragmentation
_TEACHER_K = 5
_STORED_BFLOAT16 = 0.47  # large 0.48, XL 0.47; see the module's text


@dataclasses.dataclass(frozen=True)
class Needs:
    """What one device needs for one optimizer step.

    Attributes:
      parameter_bytes: its part of the parameters.
      optimizer_bytes: its part of the optimizer state.
      batch_bytes: its part of the batch.
      gradient_bytes: its part of the gradient, twice where microbatches add theirs up.
      activation_bytes: what else the step holds at its worst moment on a TPU: activations, buffers of collectives.
      gpu_activation_bytes: the same on a GPU.
      flops: floating-point operations.
      collectives: kind -> bytes of the arrays that come out of such operations.
    """

    parameter_bytes: float
    optimizer_bytes: float
    batch_bytes: float
    gradient_bytes: float
    activation_bytes: float
    gpu_activation_bytes: float
    flops: float
    collectives: Mapping[str, float]

    def bytes_on(self, kind: str) -> float:
        """Returns all of its memory on a "TPU" or a "GPU"."""
        state = self.parameter_bytes + self.optimizer_bytes + self.gradient_bytes
        activations = self.activation_bytes if kind == "TPU" else self.gpu_activation_bytes
        return state + self.batch_bytes + activations

    def fits(self, chip: Chip) -> bool:
        """Returns whether nine tenths of the chip's memory hold it."""
        return self.bytes_on(chip.kind) <= USABLE_MEMORY * chip.memory_bytes

    def seconds(self, chip: Chip, dtype: Any) -> float:
        """Returns the predicted time of a step: products at 40 % of the peak, then collectives, not overlapped.

        An all-reduce sends its bytes twice (it scatters and gathers), the others once.
        """
        sent = sum(
            size * (2 if kind == "all-reduce" else 1) for kind, size in self.collectives.items()
        )
        return self.flops / (UTILISATION * chip.flops(dtype)) + sent / chip.link_bytes


def choose_shape(
    num_devices: int,
    config: network.T5Config,
    batch_size: int | None,
    num_microbatches: int,
    memory_bytes: float | None,
) -> tuple[partitioning.Shape, str]:
    """Returns what `partitioning.choose_shape` does, for the parameters that a network has."""
    params = abstract_variables(config)["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return partitioning.choose_shape(
        num_devices, config, size, batch_size, num_microbatches, memory_bytes
    )


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
        f"{side}_{name}": jax.ShapeDtypeStruct(
            (batch_size, length), jnp.float32 if name == "loss_weights" else jnp.int32
        )
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
    num_microbatches: int = 1,
    num_loss_chunks: int = 1,
) -> Needs:
    """Returns the needs of a step, from compiling it as it would run; nothing is computed.

    FLOPs and collectives inside loops (microbatches, chunks of the loss, scanned layers) count once. Attention in blocks
    is planned as computing all scores: how many it skips depends on the data.

    Args:
      mesh: devices, simulated ones too.
      config: dimensions of the network.
      loss_fn: as in the run.
      optimizer: as in the run.
      batch: from `abstract_batch`.
      num_microbatches: as in the run.
      num_loss_chunks: as in the run.
    """
    config = dataclasses.replace(config, attention_block=None)
    state = jax.eval_shape(lambda: step.init_state(mesh, config, optimizer, seed=0))
    shardings = step.state_shardings(mesh, config, optimizer)
    train_step: Any = step.make_train_step(
        mesh,
        config,
        loss_fn,
        optimizer,
        num_microbatches=num_microbatches,
        num_loss_chunks=num_loss_chunks,
    )
    compiled = train_step.lower(state, batch).compile()
    rows = partitioning.batch_sharding(mesh)
    parameters = _device_bytes(state.params, shardings.params)
    gradients = parameters * min(num_microbatches, 2)
    activations = compiled.memory_analysis().temp_size_in_bytes - gradients
    return Needs(
        parameter_bytes=parameters,
        optimizer_bytes=_device_bytes(state.opt_state, shardings.opt_state),
        batch_bytes=_device_bytes(batch, {name: rows for name in batch}),
        gradient_bytes=gradients,
        activation_bytes=activations * _tpu_share(config),
        gpu_activation_bytes=activations,
        flops=float(compiled.cost_analysis()["flops"]),
        collectives=collectives.once(compiled.as_text()),
    )


def estimate(
    mesh: Mesh,
    config: network.T5Config,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    num_microbatches: int = 1,
    num_loss_chunks: int = 1,
) -> Needs:
    """Returns the needs of a deep network's step, see the module docstring.

    Microbatches multiply FLOPs and collectives; they cost the memory of one microbatch and of one more copy of the gradient.

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
    unrolled = _straight_line(shallow, deeper, depth, num_microbatches)
    if not config.scan_layers:
        return unrolled
    whole = measure(mesh, config, loss_fn, optimizer, batch, num_microbatches, num_loss_chunks)
    return dataclasses.replace(whole, flops=unrolled.flops, collectives=unrolled.collectives)


def _straight_line(one: Needs, two: Needs, depth: int, num_microbatches: int) -> Needs:
    """Returns the needs of `depth` layers and several microbatches from those of one and of two layers and one microbatch."""

    def line(first: float, second: float) -> float:
        return first + (depth - 1) * (second - first)

    parameters = line(one.parameter_bytes, two.parameter_bytes)
    return Needs(
        parameter_bytes=parameters,
        optimizer_bytes=line(one.optimizer_bytes, two.optimizer_bytes),
        batch_bytes=one.batch_bytes * num_microbatches,
        gradient_bytes=parameters * min(num_microbatches, 2),
        activation_bytes=line(one.activation_bytes, two.activation_bytes),
        gpu_activation_bytes=line(one.gpu_activation_bytes, two.gpu_activation_bytes),
        flops=line(one.flops, two.flops) * num_microbatches,
        collectives={
            kind: num_microbatches
            * max(0.0, line(one.collectives.get(kind, 0.0), two.collectives.get(kind, 0.0)))
            for kind in sorted({*one.collectives, *two.collectives})
        },
    )


def _tpu_share(config: network.T5Config) -> float:
    """Returns which share of the activations of a program for CPUs a TPU's holds."""
    stores = config.remat != "full" and jnp.dtype(config.dtype) == jnp.bfloat16
    return _STORED_BFLOAT16 if stores else 1.0


def _device_bytes(tree: Any, shardings: Any) -> float:
    """Returns the bytes of one device's part of the arrays of a tree."""
    sizes = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        tree,
        shardings,
    )
    return float(sum(jax.tree.leaves(sizes)))
