"""Many prompts through one batch: a row that has ended is handed to the next waiting prompt.

Prompts wait longest first. Whenever a quarter of the rows have ended, the next prompts are encoded together and take
their places; the others go on where they are. When the longest prompts are done, the cached source positions are cut to
the next shorter bucket. Shapes, and so compilations, are few: one loop and one encoder per bucket.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cotdistill_jax import network
from cotdistill_jax.decoding import loop
from cotdistill_jax.decoding.choosers import Chooser, most_likely
from cotdistill_jax.decoding.loop import EOS_ID, PAD_ID, Array, Params, State
from cotdistill_jax.decoding.step import FLOAT, INT8_DYNAMIC, Weights, prepare

_CROSS = "encoder_decoder_attention"


class Completion(NamedTuple):
    """What one prompt produced.

    Attributes:
        tokens: Token ids without padding; ends in EOS unless `finished` is false.
        log_probs: Log-probability of each token, as in `Generation`.
        finished: Whether EOS was produced within the length limit.
        top_ids: The `top_k` most likely ids at each position, most likely first.
        top_log_probs: Their log-probabilities.
    """

    tokens: list[int]
    log_probs: list[float]
    finished: bool
    top_ids: list[list[int]]
    top_log_probs: list[list[float]]


class Answer(NamedTuple):
    """A completion and whose it is: the index of its prompt and the number of the sample."""

    prompt: int
    sample: int
    completion: Completion


def generate(
    config: network.T5Config,
    params: Params | Weights,
    prompts: Sequence[Sequence[int]],
    max_decode_len: int,
    *,
    batch_size: int = 32,
    chooser: Chooser = most_likely,
    key: Array | None = None,
    eos_id: int = EOS_ID,
    weights: str = FLOAT,
) -> list[Completion]:
    """Returns one completion per prompt, in the order of the prompts; arguments as in `stream`."""
    answers = stream(
        config,
        params,
        prompts,
        max_decode_len,
        batch_size=batch_size,
        chooser=chooser,
        key=key,
        eos_id=eos_id,
        weights=weights,
    )
    completions = {answer.prompt: answer.completion for answer in answers}
    return [completions[index] for index in range(len(prompts))]


def stream(
    config: network.T5Config,
    params: Params | Weights,
    prompts: Sequence[Sequence[int]],
    max_decode_len: int,
    *,
    batch_size: int = 32,
    chooser: Chooser = most_likely,
    key: Array | None = None,
    num_samples: int = 1,
    top_k: int = 0,
    eos_id: int = EOS_ID,
    weights: str = FLOAT,
) -> Iterator[Answer]:
    """Yields every completion as soon as it is known; what it is does not depend on the batch.

    Args:
        config: Dimensions of the network.
        params: Its parameter tree, or what `prepare` made of it (for a caller who decodes more than once).
        prompts: Token ids of each prompt, EOS included, without padding; none may be empty.
        max_decode_len: The most tokens produced per prompt, EOS included.
        batch_size: Rows decoded together.
        chooser: `most_likely` or a `Sampler`.
        key: Random key of a sampler; not needed for greedy decoding.
        num_samples: Completions per prompt; they share its encoding.
        top_k: How many alternatives to record at each position.
        eos_id: The token that ends a completion.
        weights: A name in `WEIGHT_KINDS`; with prepared parameters the kind that they were prepared as.

    Raises:
        ValueError: If a prompt is empty, or the batch is smaller than `num_samples`.
    """
    empty = [index for index, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(f"decoding: prompt {empty[0]} is empty; expected at least one token")
    if batch_size < num_samples:
        raise ValueError(
            f"decoding: batch_size {batch_size} is less than num_samples {num_samples}; samples of a prompt start "
            "together, so raise batch_size"
        )
    key = jax.random.key(0) if key is None else key
    waiting = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    prepared = params if isinstance(params, Weights) else prepare(config, params, weights)
    dynamic = weights == INT8_DYNAMIC
    rows = _Rows(config, prepared, batch_size, max_decode_len, num_samples, top_k, dynamic)
    while waiting or rows.owners:
        rows.admit(prompts, waiting, key)
        rows.advance(bool(waiting), chooser, eos_id)
        yield from rows.take_finished(eos_id)


def bucket_length(length: int) -> int:
    """Returns `length` rounded up to 64, 128, 192, 256, 384, 512, 768, 1024, ...

    Few values, because each costs a compilation, and encoding is cheap beside decoding.

    Example:
        `bucket_length(33)` is 64, `bucket_length(130)` is 192.
    """
    step = max(64, (1 << max(length - 1, 1).bit_length()) // 4)
    return -(-length // step) * step


class _Owner(NamedTuple):
    prompt: int
    sample: int
    source_length: int


class _Rows:
    """The rows on the device and who owns them; rows without an owner are finished."""

    def __init__(
        self,
        config: network.T5Config,
        weights: Weights,
        batch_size: int,
        max_decode_len: int,
        num_samples: int,
        top_k: int,
        dynamic: bool,
    ) -> None:
        self.owners: dict[int, _Owner] = {}
        self._config, self._weights, self._dynamic = config, weights, dynamic
        self._batch_size, self._max_decode_len, self._top_k = batch_size, max_decode_len, top_k
        self._num_samples = num_samples
        self._num_prompts = max(1, batch_size // 4 // num_samples)  # admitted at a time
        self._num_rows = self._num_prompts * num_samples
        self._state: State | None = None

    def admit(self, prompts: Sequence[Sequence[int]], waiting: list[int], key: Array) -> None:
        """Hands free rows to the longest waiting prompts, which leave the list."""
        free = sorted(set(range(self._batch_size)) - self.owners.keys())
        while waiting and len(free) >= self._num_rows:
            rows, free = free[: self._num_rows], free[self._num_rows :]
            coming = [waiting.pop() for _ in range(min(self._num_prompts, len(waiting)))]
            samples = [(index, sample) for index in coming for sample in range(self._num_samples)]
            for row, (index, sample) in zip(rows, samples, strict=False):
                self.owners[row] = _Owner(index, sample, len(prompts[index]))
            tokens = _pad([prompts[index] for index in coming], self._num_prompts)
            unused = [(0, 0)] * (self._num_rows - len(samples))
            keys = _keys(key, np.asarray(samples + unused, np.int32))
            encoded = _encode(self._config, self._weights.start, tokens)
            state = self._fitting()
            self._state = _place(state, np.asarray(rows), tokens, encoded, keys, self._num_samples)

    def advance(self, more_wait: bool, chooser: Chooser, eos_id: int) -> None:
        """Decodes until the next prompts find room or, if none wait, until all rows have ended."""
        until = np.int32(self._num_rows if more_wait else self._batch_size)
        self._state = _advance(
            self._config, self._weights, self._state, until, chooser, eos_id, self._dynamic
        )

    def take_finished(self, eos_id: int) -> Iterator[Answer]:
        """Yields and frees the rows that have ended."""
        assert self._state is not None
        state = self._state
        finished, length, tokens, log_probs, top_ids, top_log_probs = jax.device_get(
            (
                state.finished,
                state.length,
                state.tokens,
                state.log_probs,
                state.top_ids,
                state.top_log_probs,
            )
        )
        for row in [row for row in self.owners if finished[row]]:
            owner, end = self.owners.pop(row), int(length[row])
            completion = Completion(
                tokens=tokens[row, :end].tolist(),
                log_probs=log_probs[row, :end].tolist(),
                finished=bool(tokens[row, end - 1] == eos_id),
                top_ids=top_ids[row, :end].tolist(),
                top_log_probs=top_log_probs[row, :end].tolist(),
            )
            yield Answer(owner.prompt, owner.sample, completion)

    def _fitting(self) -> State:
        """Returns the state with as many source positions as its owners need."""
        longest = max(owner.source_length for owner in self.owners.values())
        length = bucket_length(longest)
        if self._state is None:
            sizes = (self._batch_size, length, self._max_decode_len, self._top_k)
            return _empty(self._config, self._weights.start, *sizes)
        if length < self._state.inputs.shape[1]:
            return _narrow(self._state, length)
        return self._state


def _pad(prompts: Sequence[Sequence[int]], num_rows: int) -> np.ndarray:
    """Returns int32 [num_rows, S] of the prompts, longest first; rows beyond them are padding."""
    tokens = np.full((num_rows, bucket_length(len(prompts[0]))), PAD_ID, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens


@jax.jit
def _keys(key: Array, samples: Array) -> Array:
    """Returns one key per (prompt, sample) in samples [rows, 2]."""
    fold = jax.random.fold_in
    return jax.vmap(lambda pair: fold(fold(key, pair[0]), pair[1]))(samples)


@functools.partial(jax.jit, static_argnames=("config",))
def _encode(config: network.T5Config, params: Params, tokens: Array) -> dict[Any, Array]:
    """Returns the cached encoder keys and values of tokens [rows, S], by their path in the cache."""
    _, started = network.Transformer(config).apply(
        {"params": params}, tokens, 1, method="start", mutable=["cache"]
    )
    flat = traverse_util.flatten_dict(started["cache"])
    return {path: leaf for path, leaf in flat.items() if _CROSS in path}


@functools.partial(
    jax.jit, static_argnames=("config", "batch_size", "length", "max_decode_len", "top_k")
)
def _empty(
    config: network.T5Config,
    params: Params,
    batch_size: int,
    length: int,
    max_decode_len: int,
    top_k: int,
) -> State:
    """Returns a state of finished rows."""
    inputs = jnp.full((batch_size, length), PAD_ID, jnp.int32)
    start = functools.partial(network.Transformer(config).apply, method="start", mutable=["cache"])
    shapes = jax.eval_shape(
        lambda params: start({"params": params}, inputs, max_decode_len)[1]["cache"], params
    )
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    keys = jax.random.split(jax.random.key(0), batch_size)
    finished = jnp.ones((batch_size,), bool)
    return loop.blank(inputs, keys, finished, max_decode_len, top_k, cache)


@functools.partial(jax.jit, static_argnames=("num_samples",), donate_argnames=("state",))
def _place(
    state: State,
    rows: Array,
    tokens: Array,
    encoded: dict[Any, Array],
    keys: Array,
    num_samples: int,
) -> State:
    """Returns the state with new prompts in some rows.

    Args:
        state: Rows in progress; its memory is reused.
        rows: int [rows], which to replace.
        tokens: int [rows / num_samples, S'], S' at most the state's S.
        encoded: From `_encode` of these tokens.
        keys: Random keys [rows].
        num_samples: Adjacent rows that share a prompt.
    """
    cache = traverse_util.flatten_dict(state.cache)
    for path, leaf in encoded.items():
        wider = [(0, 0)] * leaf.ndim
        wider[2] = (0, cache[path].shape[2] - leaf.shape[2])
        leaf = jnp.repeat(jnp.pad(leaf, wider), num_samples, axis=0)
        cache[path] = cache[path].at[rows].set(leaf)
    clock = ("decoder", "cache_index")
    start = ("decoder", "cached_start")
    cache[start] = cache[start].at[rows].set(cache[clock])
    padding = ((0, 0), (0, state.inputs.shape[1] - tokens.shape[1]))
    inputs = jnp.repeat(jnp.pad(tokens, padding), num_samples, axis=0)
    fresh = loop.blank(
        inputs,
        keys,
        jnp.all(inputs == PAD_ID, axis=-1),
        state.tokens.shape[1],
        state.top_ids.shape[-1],
        None,
    )
    mine, theirs = state._replace(cache=None), fresh
    placed = jax.tree.map(lambda old, new: old.at[rows].set(new), mine, theirs)
    return placed._replace(cache=traverse_util.unflatten_dict(cache))


@functools.partial(jax.jit, static_argnames=("length",))
def _narrow(state: State, length: int) -> State:
    """Returns the state with the first `length` source positions only."""
    cache = traverse_util.flatten_dict(state.cache)
    cut = {path: leaf[:, :, :length] for path, leaf in cache.items() if _CROSS in path}
    cache = traverse_util.unflatten_dict(cache | cut)
    return state._replace(inputs=state.inputs[:, :length], cache=cache)


_advance = jax.jit(
    loop.advance,
    static_argnames=("config", "chooser", "eos_id", "dynamic"),
    donate_argnames=("state",),
)
