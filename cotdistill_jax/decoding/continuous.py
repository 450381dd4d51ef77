"""Many prompts through one batch: a row that has ended is handed to the next waiting prompt.

Prompts wait longest first. Whenever an eighth of the rows have ended, the next prompts are encoded together and take
their places; the others go on where they are. A step reads no more of the cache than its rows need: when the longest
prompts are done, the source positions are cut to the next shorter bucket, and the ring of produced tokens starts short and
follows the longest text in progress. Shapes, and so compilations, are few: one loop per bucket and per length of the
ring, one encoder per bucket.

On a mesh the rows are split over its data axis, also over several processes. Which row goes to which prompt is decided on
the host, by every process alike: from what all of them hold whole.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cotdistill_jax import network, partitioning
from cotdistill_jax.decoding import loop
from cotdistill_jax.decoding import step as token_step
from cotdistill_jax.decoding.choosers import Chooser, most_likely
from cotdistill_jax.decoding.loop import EOS_ID, PAD_ID, Array, Params, State
from cotdistill_jax.decoding.step import FLOAT, INT8_DYNAMIC, Weights, prepare
from cotdistill_jax.network.attention import KeysValues

_SHORTEST_RING = 64


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
    before_round: Callable[[], None] = lambda: None,
    mesh: Mesh | None = None,
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
        before_round=before_round,
        mesh=mesh,
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
    before_round: Callable[[], None] = lambda: None,
    mesh: Mesh | None = None,
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
        before_round: Called before prompts are admitted and decoded, again and again; may raise to end it.
        mesh: Where the parameters are, over one process or several, which then call this alike and all get every answer;
            None: on one device.

    Raises:
        ValueError: If a prompt is empty, the batch is smaller than `num_samples`, or the mesh does not divide it.
    """
    empty = [index for index, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(f"decoding: prompt {empty[0]} is empty; expected at least one token")
    if batch_size < num_samples:
        raise ValueError(
            f"decoding: batch_size {batch_size} is less than num_samples {num_samples}; samples of a prompt start "
            "together, so raise batch_size"
        )
    if mesh is not None:
        partitioning.check_mesh(mesh, config, batch_size)
    key = jax.random.key(0) if key is None else key
    if mesh is not None:
        key = jax.jit(lambda key: key, out_shardings=partitioning.replicated(mesh))(key)
    waiting = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    prepared = params if isinstance(params, Weights) else prepare(config, params, weights)
    dynamic = weights == INT8_DYNAMIC
    rows = _Rows(config, prepared, batch_size, max_decode_len, num_samples, top_k, dynamic, mesh)
    while waiting or rows.owners:
        before_round()
        rows.admit(prompts, waiting, key)
        rows.advance(bool(waiting), chooser, eos_id)
        yield from rows.take_finished(eos_id)


def bucket_length(length: int) -> int:
    """Returns `length` rounded up to 32, 64, 96, ... 256, 320, 384, 448, 512, 640, 768, ...

    Few values, because each costs two compilations, and at most an eighth of padding beyond 256.

    Example:
        `bucket_length(33)` is 64, `bucket_length(130)` is 160.
    """
    step = max(32, (1 << max(length - 1, 1).bit_length()) // 8)
    return -(-length // step) * step


def prompts_at_a_time(batch_size: int, num_samples: int, mesh: Mesh | None) -> int:
    """Returns how many prompts are encoded together: an eighth of the rows, and a row at least for each of a mesh's parts."""
    rows = 1 if mesh is None else partitioning.num_row_shards(mesh)
    at_a_time = -(-max(1, batch_size // 8 // num_samples) // rows) * rows
    return min(at_a_time, batch_size // num_samples)


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
        mesh: Mesh | None,
    ) -> None:
        self.owners: dict[int, _Owner] = {}
        self._mesh = mesh
        self._config, self._weights, self._dynamic = config, weights, dynamic
        self._batch_size, self._max_decode_len, self._top_k = batch_size, max_decode_len, top_k
        self._num_samples = num_samples
        self._num_prompts = prompts_at_a_time(batch_size, num_samples, mesh)
        self._num_rows = self._num_prompts * num_samples
        self._state: State | None = None
        self._lengths = np.zeros(batch_size, np.int32)

    def admit(self, prompts: Sequence[Sequence[int]], waiting: list[int], key: Array) -> None:
        """Hands free rows to the longest waiting prompts, which leave the list."""
        free = sorted(set(range(self._batch_size)) - self.owners.keys())
        while waiting and len(free) >= self._num_rows:
            rows, free = free[: self._num_rows], free[self._num_rows :]
            coming = [waiting.pop() for _ in range(min(self._num_prompts, len(waiting)))]
            samples = [(index, sample) for index in coming for sample in range(self._num_samples)]
            for row, (index, sample) in zip(rows, samples, strict=False):
                self.owners[row] = _Owner(index, sample, len(prompts[index]))
                self._lengths[row] = 0
            tokens = _pad([prompts[index] for index in coming], self._num_prompts)
            unused = [(0, 0)] * (self._num_rows - len(samples))
            keys = _keys(key, np.asarray(samples + unused, np.int32))
            source = _encode(self._config, self._weights, tokens, self._mesh)
            if self._state is None:
                most = self._max_decode_len
                sizes = (self._batch_size, tokens.shape[1], most, self._top_k, _ring(1, most, most))
                self._state = _empty(self._config, *sizes, self._mesh)
            self._state = _place(
                self._state, np.asarray(rows), tokens, source, keys, self._num_samples, self._mesh
            )

    def advance(self, more_wait: bool, chooser: Chooser, eos_id: int) -> None:
        """Decodes until the next prompts find room, or all rows have ended if none wait, or the ring is full."""
        until = np.int32(self._num_rows if more_wait else self._batch_size)
        state = self._fitting()
        self._state = _advance(
            self._config, self._weights, state, until, chooser, eos_id, self._dynamic, self._mesh
        )

    def take_finished(self, eos_id: int) -> Iterator[Answer]:
        """Yields and frees the rows that have ended."""
        assert self._state is not None
        found = jax.device_get(_results(self._state, self._mesh))
        finished, length, tokens, log_probs, top_ids, top_log_probs = found
        self._lengths = np.array(length)
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
        """Returns the state with as much cache as its owners need."""
        assert self._state is not None
        state = self._state
        length = bucket_length(max(owner.source_length for owner in self.owners.values()))
        produced = self._lengths[list(self.owners)]
        num_slots = _ring(int(produced.max()) + 1, state.cache.num_slots, self._max_decode_len)
        if (length, num_slots) == (state.inputs.shape[1], state.cache.num_slots):
            return state
        return _fit(state, length, num_slots, self._mesh)


def _ring(needed: int, current: int, most: int) -> int:
    """Returns the slots of a ring that has `current`: doubled when short of `needed`, halved when that leaves room for twice as many."""

    def rounded(length: int) -> int:
        return min(most, max(_SHORTEST_RING, 1 << (length - 1).bit_length()))

    return rounded(needed) if needed > current else min(current, rounded(2 * needed))


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


def _constrained(mesh: Mesh | None) -> contextlib.AbstractContextManager[None]:
    if mesh is None:
        return contextlib.nullcontext()
    return partitioning.constrained_activations(mesh, partitioning.DECODING_RULES)


def _laid_out(state: State, mesh: Mesh | None) -> State:
    """Returns the state with its rows split over the data axis of a mesh, and its heads over `model`."""
    if mesh is None:
        return state

    def laid_out(leaf: Array) -> Array:
        spec = PartitionSpec(*("data", "model")[: 2 if leaf.ndim == 4 else min(leaf.ndim, 1)])
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(laid_out, state)


@functools.partial(jax.jit, static_argnames=("mesh",))
def _results(state: State, mesh: Mesh | None) -> tuple[Array, ...]:
    """Returns what the host reads of a state, in every process whole."""
    found = (
        state.finished,
        state.length,
        state.tokens,
        state.log_probs,
        state.top_ids,
        state.top_log_probs,
    )
    if mesh is None:
        return found
    return jax.lax.with_sharding_constraint(found, partitioning.replicated(mesh))


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def _encode(
    config: network.T5Config, weights: Weights, tokens: Array, mesh: Mesh | None
) -> list[KeysValues]:
    with _constrained(mesh):
        return token_step.encode(config, weights, tokens)


@functools.partial(
    jax.jit,
    static_argnames=(
        "config",
        "batch_size",
        "length",
        "max_decode_len",
        "top_k",
        "num_slots",
        "mesh",
    ),
)
def _empty(
    config: network.T5Config,
    batch_size: int,
    length: int,
    max_decode_len: int,
    top_k: int,
    num_slots: int,
    mesh: Mesh | None,
) -> State:
    """Returns a state of finished rows."""
    inputs = jnp.full((batch_size, length), PAD_ID, jnp.int32)
    unread = jnp.zeros((batch_size, config.num_heads, length, config.head_dim), config.dtype)
    source = [(unread, unread)] * config.num_decoder_layers
    cache = token_step.empty_cache(config, source, num_slots)
    keys = jax.random.split(jax.random.key(0), batch_size)
    finished = jnp.ones((batch_size,), bool)
    return _laid_out(loop.blank(inputs, keys, finished, max_decode_len, top_k, cache), mesh)


@functools.partial(jax.jit, static_argnames=("num_samples", "mesh"), donate_argnames=("state",))
def _place(
    state: State,
    rows: Array,
    tokens: Array,
    source: list[KeysValues],
    keys: Array,
    num_samples: int,
    mesh: Mesh | None,
) -> State:
    """Returns the state with new prompts in some rows.

    Args:
        state: Rows in progress; its memory is reused.
        rows: int [rows], which to replace.
        tokens: int [rows / num_samples, S'], S' at most the state's S.
        source: From `_encode` of these tokens.
        keys: Random keys [rows].
        num_samples: Adjacent rows that share a prompt.
        mesh: As in `stream`.
    """

    def placed(old: Array, new: Array) -> Array:
        return old.at[rows].set(new)

    def widened(leaf: Array, axis: int) -> Array:
        wider = [(0, 0)] * leaf.ndim
        wider[axis] = (0, state.inputs.shape[1] - tokens.shape[1])
        return jnp.repeat(jnp.pad(leaf, wider), num_samples, axis=0)

    cache = state.cache._replace(
        start=placed(state.cache.start, state.cache.clock),
        source=jax.tree.map(
            lambda old, new: placed(old, widened(new, 2)), state.cache.source, source
        ),
    )
    inputs = widened(tokens, 1)
    finished = jnp.all(inputs == PAD_ID, axis=-1)
    _, most, top_k = state.top_ids.shape
    fresh = loop.blank(inputs, keys, finished, most, top_k, cache)
    filled = State._make((*jax.tree.map(placed, state[:-1], fresh[:-1]), cache))
    return _laid_out(filled, mesh)


@functools.partial(jax.jit, static_argnames=("length", "num_slots", "mesh"))
def _fit(state: State, length: int, num_slots: int, mesh: Mesh | None) -> State:
    """Returns the state with the first `length` source positions and a ring of the newest `num_slots` tokens."""
    cache = state.cache
    newest = cache.clock - 1
    written_at = newest - (newest - jnp.arange(num_slots)) % num_slots  # the step of each new slot
    slots = written_at % cache.num_slots
    cache = cache._replace(
        own=jax.tree.map(lambda leaf: leaf[:, :, slots], cache.own),
        source=jax.tree.map(lambda leaf: leaf[:, :, :length], cache.source),
    )
    return _laid_out(state._replace(inputs=state.inputs[:, :length], cache=cache), mesh)


@functools.partial(
    jax.jit,
    static_argnames=("config", "chooser", "eos_id", "dynamic", "mesh"),
    donate_argnames=("state",),
)
def _advance(
    config: network.T5Config,
    weights: Weights,
    state: State,
    until: Array,
    chooser: Chooser,
    eos_id: int,
    dynamic: bool,
    mesh: Mesh | None,
) -> State:
    """Returns `loop.advance`'s state."""
    with _constrained(mesh):
        advanced = loop.advance(config, weights, state, until, chooser, eos_id, dynamic)
    return _laid_out(advanced, mesh)
