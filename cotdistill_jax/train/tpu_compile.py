"""A run's programs compiled by the TPU's compiler for slices that need not be there: memory and collectives as they will be.

The programs are the run's own: the training step with its batch, microbatches, loss and optimizer; encoding and the loop of
decoding as its evaluation calls them, on the same mesh; the layout that its checkpoints are restored to. What the compiler
refuses on a TPU for want of memory it refuses here. Time is not predicted: the compiler's own estimate means nothing.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from cotdistill_jax import partitioning
from cotdistill_jax.decoding import ahead
from cotdistill_jax.train import collectives, step, tpu_topologies
from cotdistill_jax.train.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled, or refused, program, per device.

    Attributes:
      fits: whether the compiler took it.
      peak_bytes: memory at its worst moment, its arguments included; of a refused one what it would need.
      argument_bytes: of what it is given; None where it was refused.
      collectives: per kind, what one run of it sends; empty where it was refused.
      compile_seconds: time that the compiler took here.
      beside_bytes: what else of the run a device holds meanwhile.
    """

    fits: bool
    peak_bytes: float
    argument_bytes: float | None
    collectives: Mapping[str, collectives.Traffic]
    compile_seconds: float
    beside_bytes: float = 0.0

    @property
    def bytes(self) -> float:
        """All memory that a device needs while the program runs."""
        return self.peak_bytes + self.beside_bytes


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a device holds after a checkpoint was restored.

    Attributes:
      num_arrays: arrays of the train state.
      bytes: of its parts of them.
      largest: name and bytes of the largest part.
      as_in_step: whether the step takes every array that it reads laid out as it is restored; None where the step was refused.
    """

    num_arrays: int
    bytes: float
    largest: tuple[str, float]
    as_in_step: bool | None


def compile_program(lowered: Any) -> tuple[Program, Any]:
    """Returns the figures of a lowered program and the compiled one, None where it was refused.

    Raises:
      jax.errors.JaxRuntimeError: the compiler failed for another reason than memory.
    """
    start = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = tpu_topologies.refused_bytes(str(error))
        if refusal is None:
            raise
        return Program(False, refusal[0], None, {}, time.monotonic() - start), None
    seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    found = Program(
        True,
        float(memory.peak_memory_in_bytes),
        float(memory.argument_size_in_bytes),
        collectives.per_run(compiled.as_text()),
        seconds,
    )
    return found, compiled


def compile_step(mesh: Mesh, recipe: Recipe, state: Any) -> tuple[Program, Restored]:
    """Returns the figures of the training step and of the layout that a checkpoint is restored to.

    Args:
      mesh: of `tpu_topologies.devices`.
      recipe: the run.
      state: from `abstract_state`.
    """
    rows = partitioning.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows)
        for name, leaf in recipe.batch.items()
    }
    train_step: Any = step.make_train_step(
        mesh,
        recipe.config,
        recipe.loss_fn,
        recipe.optimizer,
        recipe.num_microbatches,
        recipe.seed,
        skip_nonfinite=recipe.skip_nonfinite,
        weigh_alike=recipe.weigh_alike,
        num_loss_chunks=recipe.num_loss_chunks,
    )
    program, compiled = compile_program(train_step.lower(state, batch))
    return program, restored_layout(state, compiled)


def abstract_state(mesh: Mesh, recipe: Recipe) -> Any:
    """Returns the shapes and shardings of the train state, what `TrainCheckpoints.restore` is given."""
    shapes = jax.eval_shape(
        lambda: step.init_state(mesh, recipe.config, recipe.optimizer, recipe.seed)
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        step.state_shardings(mesh, recipe.config, recipe.optimizer),
    )


def compile_decoding(mesh: Mesh, recipe: Recipe, state: Any) -> dict[str, Program]:
    """Returns the figures of what an evaluation runs while a run's state stays on the devices, by name.

    `unstack`, where layers are scanned: a copy of the parameters, layer by layer. `encode`: prompts through the encoder.
    `advance`: the loop over tokens; its collectives are those of one token.

    Args:
      mesh: of the run.
      recipe: the run.
      state: from `abstract_state`.
    """
    config, params, found = recipe.config, state.params, {}
    kept = tree_bytes(state)
    if config.scan_layers:
        config, unstack, shardings = step.unstacking(config, mesh)
        program, _ = compile_program(unstack.lower(params))
        found["unstack"] = dataclasses.replace(program, beside_bytes=kept - tree_bytes(params))
        params = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(unstack, params),
            shardings,
        )
    shards = partitioning.num_row_shards(mesh)
    batch_size = -(-recipe.eval_batch_size // shards) * shards
    lengths = recipe.eval_lengths
    lowered = ahead.lower(config, params, batch_size, lengths["inputs"], lengths["targets"], mesh)
    kept += tree_bytes(lowered.weights) + tree_bytes(lowered.state)
    for name, of_program in {"encode": lowered.encode, "advance": lowered.advance}.items():
        program, _ = compile_program(of_program)
        beside = kept - (program.argument_bytes or 0.0)
        found[name] = dataclasses.replace(program, beside_bytes=beside)
    return found


def restored_layout(state: Any, compiled_step: Any | None) -> Restored:
    """Returns what restoring `state` puts on a device, compared with what the compiled step takes."""
    leaves = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    sizes = {name: device_bytes(leaf) for name, leaf in leaves.items()}
    name = max(sizes, key=lambda each: sizes[each])
    alike = None
    if compiled_step is not None:
        taken = jax.tree_util.tree_leaves_with_path(compiled_step.input_shardings[0][0])
        alike = all(
            leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
            for path, sharding in taken
            for leaf in [leaves[jax.tree_util.keystr(path)]]
        )
    return Restored(len(leaves), sum(sizes.values()), (name, sizes[name]), alike)


def tree_bytes(tree: Any) -> float:
    """Returns the bytes of one device's parts of the arrays of a tree."""
    return sum(device_bytes(leaf) for leaf in jax.tree.leaves(tree))


def device_bytes(leaf: jax.ShapeDtypeStruct) -> float:
    """Returns the bytes of one device's part of an array that has a sharding."""
    sharding: Any = leaf.sharding
    return float(math.prod(sharding.shard_shape(leaf.shape)) * _item_bytes(leaf.dtype))


def _item_bytes(dtype: Any) -> int:
    return (
        8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
    )  # a key is two numbers of 32 bits
