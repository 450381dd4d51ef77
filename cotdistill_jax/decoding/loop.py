"""The decoding loop: token by token over a key/value cache, until enough rows have ended.

`State` holds a batch of rows that may be at different positions. All rows write the same slot of a ring of cached keys
and values at the same time; as T5 knows only distances, a row that started later needs no more than the time of its
start. So a finished row can be replaced by a new prompt while its neighbours go on (`continuous.py`), and the result of a row
does not depend on its neighbours.

Axes: B batch, S source length, L target length, V vocabulary, K alternatives recorded per token.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cotdistill_jax import network
from cotdistill_jax.decoding import step as token_step
from cotdistill_jax.decoding.choosers import Chooser, most_likely
from cotdistill_jax.decoding.step import Cache, Weights
from cotdistill_jax.network.biases import mask_bias

Array = jax.Array
Params = Mapping[str, Any]

PAD_ID = 0
EOS_ID = 1


class Generation(NamedTuple):
    """What one batch produced.

    Attributes:
        tokens: int32 [B, L], each row up to and including EOS, then padding; a row that was stopped
            by the length limit has no EOS.
        log_probs: float32 [B, L], log-probability of each token under the model's own softmax (of
            temperature 1, before any top-k or top-p cut); 0 at padding.
    """

    tokens: Array
    log_probs: Array


class State(NamedTuple):
    """Rows in progress; the carry of the loop.

    Attributes:
        inputs: int32 [B, S], source tokens, for the padding mask.
        keys: random keys [B], one per row.
        last: int32 [B], the newest token of each row.
        finished: bool [B]; such a row changes no more.
        length: int32 [B], tokens produced so far.
        tokens: int32 [B, L].
        log_probs: float32 [B, L].
        top_ids: int32 [B, L, K], the K most likely tokens at each position.
        top_log_probs: float32 [B, L, K].
        cache: keys and values of all rows; its ring has a slot for every token of an unfinished row.
    """

    inputs: Array
    keys: Array
    last: Array
    finished: Array
    length: Array
    tokens: Array
    log_probs: Array
    top_ids: Array
    top_log_probs: Array
    cache: Cache


def greedy(
    config: network.T5Config,
    params: Params,
    encoder_input_tokens: Array | np.ndarray,
    max_decode_len: int,
    eos_id: int = EOS_ID,
) -> Generation:
    """Returns the greedy continuation of every row.

    Args:
        config: Dimensions of the network.
        params: Its parameter tree (the collection "params").
        encoder_input_tokens: int [B, S], 0 is padding; a row of padding only produces nothing.
        max_decode_len: L, the most tokens produced per row, EOS included.
        eos_id: The token that ends a row.
    """
    key = jax.random.key(0)
    return sample(config, params, encoder_input_tokens, key, max_decode_len, most_likely, eos_id)


@functools.partial(jax.jit, static_argnames=("config", "max_decode_len", "chooser", "eos_id"))
def sample(
    config: network.T5Config,
    params: Params,
    encoder_input_tokens: Array | np.ndarray,
    key: Array,
    max_decode_len: int,
    chooser: Chooser,
    eos_id: int = EOS_ID,
) -> Generation:
    """Returns one continuation of every row; arguments as in `greedy`.

    Args:
        config: Dimensions of the network.
        params: Its parameter tree.
        encoder_input_tokens: int [B, S], 0 is padding; a row of padding only produces nothing.
        key: JAX random key; the same key gives the same tokens.
        max_decode_len: L, the most tokens produced per row, EOS included.
        chooser: Usually a `Sampler`; any pure, hashable function of (logits [B, V], keys [B]) to tokens [B].
        eos_id: The token that ends a row.
    """
    inputs = jnp.asarray(encoder_input_tokens, jnp.int32)
    batch = inputs.shape[0]
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch))
    weights = token_step.prepare(config, params)
    finished = jnp.all(inputs == PAD_ID, axis=-1)
    source = token_step.encode(config, weights, inputs)
    cache = token_step.empty_cache(config, source, max_decode_len)
    state = blank(inputs, keys, finished, max_decode_len, 0, cache)
    state = advance(config, weights, state, jnp.int32(batch), chooser, eos_id)
    return Generation(state.tokens, state.log_probs)


def blank(
    inputs: Array, keys: Array, finished: Array, max_decode_len: int, top_k: int, cache: Cache
) -> State:
    """Returns a state that has produced nothing yet; see `State` for the arguments."""
    shape = (inputs.shape[0], max_decode_len)
    return State(
        inputs=inputs,
        keys=keys,
        last=jnp.full(shape[:1], PAD_ID, jnp.int32),
        finished=finished,
        length=jnp.zeros(shape[:1], jnp.int32),
        tokens=jnp.full(shape, PAD_ID, jnp.int32),
        log_probs=jnp.zeros(shape, jnp.float32),
        top_ids=jnp.zeros((*shape, top_k), jnp.int32),
        top_log_probs=jnp.zeros((*shape, top_k), jnp.float32),
        cache=cache,
    )


def advance(
    config: network.T5Config,
    weights: Weights,
    state: State,
    until: Array,
    chooser: Chooser,
    eos_id: int,
    dynamic: bool = False,
) -> State:
    """Returns the state after as many steps as it takes until `until` rows are finished or a row fills the ring.

    Args:
        config: Dimensions of the network.
        weights: From `step.prepare`.
        state: Rows in progress.
        until: int32 [], how many rows are to be finished, those that were already included.
        chooser: As in `sample`.
        eos_id: The token that ends a row.
        dynamic: As in `step.logits`.
    """
    cross_bias = mask_bias(state.inputs > 0)[:, None]
    embedding = weights.start["token_embedder"]["embedding"]

    def step(state: State) -> State:
        embedded = embedding[state.last].astype(config.dtype)
        logits, cache = token_step.logits(
            config, weights.step, state.cache, embedded, cross_bias, dynamic
        )
        return _append(state, logits, cache, chooser, eos_id)

    slots = state.cache.num_slots

    def goes_on(state: State) -> Array:
        return (jnp.sum(state.finished) < until) & jnp.all(state.finished | (state.length < slots))

    return jax.lax.while_loop(goes_on, step, state)


def _append(state: State, logits: Array, cache: Cache, chooser: Chooser, eos_id: int) -> State:
    """Returns the state with one more token in every unfinished row; logits are [B, V]."""
    chosen = chooser(logits, jax.vmap(jax.random.fold_in)(state.keys, state.length))
    chosen = jnp.where(state.finished, PAD_ID, chosen)
    total = jax.nn.logsumexp(logits.T, axis=0)  # across rows: see `choosers.most_likely`
    log_prob = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0] - total
    max_decode_len = state.tokens.shape[1]
    here = jnp.arange(max_decode_len) == state.length[:, None]
    here &= ~state.finished[:, None]
    top_ids, top_log_probs = state.top_ids, state.top_log_probs
    if top_k := top_ids.shape[-1]:
        top, ids = jax.lax.top_k(logits, top_k)
        top_ids = jnp.where(here[..., None], ids[:, None], top_ids)
        top_log_probs = jnp.where(here[..., None], (top - total[:, None])[:, None], top_log_probs)
    length = state.length + ~state.finished
    return state._replace(
        last=chosen,
        finished=state.finished | (chosen == eos_id) | (length == max_decode_len),
        length=length,
        tokens=jnp.where(here, chosen[:, None], state.tokens),
        log_probs=jnp.where(here, log_prob[:, None], state.log_probs),
        top_ids=top_ids,
        top_log_probs=top_log_probs,
        cache=cache,
    )
