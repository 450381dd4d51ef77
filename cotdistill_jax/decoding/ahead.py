"""The programs of `continuous.stream` lowered for devices that need not be there, at their largest: longest prompts, full ring.

They are the very functions that `stream` calls, with the shardings that they get from each other.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cotdistill_jax import network, partitioning
from cotdistill_jax.decoding import continuous
from cotdistill_jax.decoding import step as token_step
from cotdistill_jax.decoding.choosers import most_likely
from cotdistill_jax.decoding.loop import EOS_ID

_FIRST = "layers_0"


class Lowered(NamedTuple):
    """What decoding runs and holds.

    Attributes:
        weights: shapes and shardings of `step.prepare`'s weights, which stay all the time.
        state: those of the rows in progress, which stay too.
        encode: new prompts through the encoder.
        advance: the loop over tokens.
    """

    weights: Any
    state: Any
    encode: Any
    advance: Any


def lower(
    config: network.T5Config,
    params: Any,
    batch_size: int,
    inputs: int,
    targets: int,
    mesh: Mesh,
) -> Lowered:
    """Returns the lowered programs of greedy decoding.

    Args:
        config: Dimensions of the network, not scanned.
        params: Its parameters as `jax.ShapeDtypeStruct`s with shardings.
        batch_size: As `stream` is given.
        inputs: Tokens of the longest prompt.
        targets: `max_decode_len`.
        mesh: Of the devices; one device has a mesh, too.
    """
    on = mesh if mesh.size > 1 else None
    everywhere = partitioning.replicated(mesh)
    weights = _weights(config, params)
    length = continuous.bucket_length(inputs)
    empty: Any = continuous._empty
    sizes = (batch_size, length, targets, 0, targets)
    shapes = jax.eval_shape(lambda: continuous._empty(config, *sizes, on))
    if on is None:
        shardings = jax.tree.map(lambda _: everywhere, shapes)
    else:
        shardings = empty.lower(config, *sizes, on).compile().output_shardings
    state = _with(shapes, shardings)
    prompts = continuous.prompts_at_a_time(batch_size, 1, on)
    tokens = jax.ShapeDtypeStruct((prompts, length), jnp.int32, sharding=everywhere)
    until = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    encode: Any = continuous._encode
    advance: Any = continuous._advance
    return Lowered(
        weights,
        state,
        encode.lower(config, weights, tokens, on),
        advance.lower(config, weights, state, until, most_likely, EOS_ID, False, on),
    )


def _weights(config: network.T5Config, params: Any) -> Any:
    """Returns the weights of a network; every layer is laid out as the first one is when compiled."""
    shapes = jax.eval_shape(lambda given: token_step.prepare(config, given), params)
    one_layer = dataclasses.replace(config, num_decoder_layers=1)
    prepare: Any = jax.jit(lambda given: token_step.prepare(one_layer, given))
    compiled = prepare.lower(params).compile()
    known = {
        jax.tree_util.keystr(path): sharding
        for path, sharding in jax.tree_util.tree_leaves_with_path(compiled.output_shardings)
    }
    given = {
        jax.tree_util.keystr(path): leaf.sharding
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

    def sharding_of(path: Any) -> Any:
        text = jax.tree_util.keystr(path)
        if text.startswith(".start"):  # as they are
            return given[text.removeprefix(".start")]
        layer = next(
            (key.key for key in path if str(getattr(key, "key", "")).startswith("layers_")), ""
        )
        return known[text.replace(f"'{layer}'", f"'{_FIRST}'")] if layer else known[text]

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding_of(path)),
        shapes,
    )


def _with(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
