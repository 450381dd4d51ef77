"""Packing: several short examples share one row, so that few positions are padding.

Examples are taken in windows of `WINDOW`, in the order in which they arrive. Each goes into the
first row of its window that still has room for all its parts (first fit); a new row is opened when
none has. An example whose inputs are those of the example before it joins that one's row, if its
other parts fit there, and needs no inputs of its own: the encoder then reads a question once for
many samples of it. An example is never split, trimmed or dropped, and the rows depend on the order
of the examples alone. Values come through bit by bit (but TensorFlow flushes subnormal floats to zero). A
window is one TensorFlow computation without state, so that `tf.data` can checkpoint the iterator in
the middle of it.

SeqIO's own packer keeps one open row (next fit) and takes rank-1 integers only. On the four-format
GSM8K mixture with the rates of the paper's 3B model (2,304 inputs, 352 targets) it fills 78 per cent
of the encoder positions and 73 of the decoder's; first fit fills 93 and 88 (scripts/benchmark_packing.py).
Lengths matter as much as the rule: a row must hold several of its longest inputs, and its targets
should run out when its inputs do. Largest first, best fit and their like fill no more: a window
then ends with rows of small examples alone.

Example, `capacities={"inputs": 6, "targets": 4}`:

    {"inputs": [7, 8, 1], "targets": [3, 1]},
    {"inputs": [4, 5, 6, 1], "targets": [9, 1]},
    {"inputs": [2, 1], "targets": [5, 1]}

becomes two rows, because the third example still fits behind the first:

    {"inputs":              [7, 8, 1, 2, 1, 0],  "targets":              [3, 1, 5, 1],
     "inputs_segment_ids":  [1, 1, 1, 2, 2, 0],  "targets_segment_ids":  [1, 1, 2, 2],
     "inputs_positions":    [0, 1, 2, 0, 1, 0],  "targets_positions":    [0, 1, 0, 1]}
    {"inputs":              [4, 5, 6, 1, 0, 0],  "targets":              [9, 1, 0, 0],
     "inputs_segment_ids":  [1, 1, 1, 1, 0, 0],  "targets_segment_ids":  [1, 1, 0, 0],
     "inputs_positions":    [0, 1, 2, 3, 0, 0],  "targets_positions":    [0, 1, 0, 0]}

Segment ids say which inputs a target belongs to, positions where an example begins. A fourth example
{"inputs": [4, 5, 6, 1], "targets": [6, 1]} right after the second one would share its inputs:

    {"inputs":              [4, 5, 6, 1, 0, 0],  "targets":              [9, 1, 6, 1],
     "inputs_segment_ids":  [1, 1, 1, 1, 0, 0],  "targets_segment_ids":  [1, 1, 1, 1],
     "inputs_positions":    [0, 1, 2, 3, 0, 0],  "targets_positions":    [0, 1, 0, 1]}
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

WINDOW = 2048
"""Examples packed together: more fill rows better and delay the first row."""

Window = Mapping[str, tf.RaggedTensor]


def pack(
    dataset: tf.data.Dataset,
    capacities: Mapping[str, int],
    companions: Mapping[str, Sequence[str]] | None = None,
    window: int = WINDOW,
) -> tf.data.Dataset:
    """Returns packed rows with segment ids and positions (see the module docstring).

    Args:
        dataset: Examples; every packed feature is [T, ...] with a known dtype and known inner
            dimensions. Features that are not named are dropped.
        capacities: Row length for every leading feature (`inputs`, `targets`); the first one is stored
            once for neighbours that have it in common.
        companions: For a leading feature, features that have one row per token of it and move with
            it (`{"targets": ["teacher_ids", "teacher_probs"]}`).
        window: Examples packed together, at least 1.

    Raises:
        ValueError: If a named feature is not in the dataset.
        tf.errors.InvalidArgumentError: While reading, if an example is longer than a row or a
            companion is not as long as its leading feature.
    """
    companions = companions or {}
    names = [*capacities, *(name for group in companions.values() for name in group)]
    missing = sorted(set(names) - set(dataset.element_spec))
    if missing:
        raise ValueError(
            f"features: cannot pack {missing}: the data have {sorted(dataset.element_spec)}"
        )

    def pack_window(examples: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        return _pack_window(_as_ragged(examples), capacities, companions)

    dataset = dataset.map(lambda example: {name: example[name] for name in names})
    dataset = dataset.ragged_batch(window)
    return dataset.map(pack_window, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def _as_ragged(examples: Mapping[str, tf.Tensor]) -> Window:
    """Returns a window with all features ragged; `ragged_batch` leaves features of one static length dense."""
    return {
        name: value if isinstance(value, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(value)
        for name, value in examples.items()
    }


def _pack_window(
    examples: Window, capacities: Mapping[str, int], companions: Mapping[str, Sequence[str]]
) -> dict[str, tf.Tensor]:
    """Returns the packed rows of one window, every value [rows, capacity, ...]."""
    leaders = list(capacities)
    lengths = tf.stack(
        [tf.cast(examples[name].row_lengths(), tf.int32) for name in leaders], axis=1
    )
    with tf.control_dependencies(_assertions(examples, lengths, capacities, companions)):
        rows, offsets, segments, shares = first_fit(
            lengths, [capacities[name] for name in leaders], _repeats(examples[leaders[0]])
        )
    num_rows = tf.reduce_max(rows) + 1
    packed = {}
    for leader_index, leader in enumerate(leaders):
        tokens = examples[leader]
        owner = tf.cast(tokens.value_rowids(), tf.int32)
        starts = tf.cast(tf.gather(tokens.row_splits, owner), tf.int32)
        positions = tf.range(tf.size(owner)) - starts
        place = tf.gather(offsets[:, leader_index], owner) + positions
        indices = tf.stack([tf.gather(rows, owner), place], axis=1)
        values = {name: examples[name].values for name in [leader, *companions.get(leader, ())]}
        values[f"{leader}_segment_ids"] = tf.gather(segments, owner)
        values[f"{leader}_positions"] = positions
        if leader_index == 0:  # what is shared stands there already
            written = ~tf.gather(shares, owner)
            indices = indices[written]
            values = {name: value[written] for name, value in values.items()}
        for name, value in values.items():
            inner = value.shape[1:].as_list()
            shape = [num_rows, capacities[leader], *inner]
            packed[name] = tf.scatter_nd(indices, value, shape)
            packed[name].set_shape([None, capacities[leader], *inner])
    return packed


def _repeats(tokens: tf.RaggedTensor) -> tf.Tensor:
    """Returns, bool [N], whether each row of tokens equals the row before it."""
    texts = tf.strings.reduce_join(tf.strings.as_string(tokens), axis=1, separator=" ")
    return tf.concat([[False], texts[1:] == texts[:-1]], axis=0)


def first_fit(
    lengths: tf.Tensor, capacities: Sequence[int], repeats: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns for every example its row, the starts of its parts there, its segment, and whether that is shared.

    Args:
        lengths: int32 [N, G], lengths of the G parts of N examples, none above its capacity.
        capacities: Row lengths of the G parts.
        repeats: bool [N], whether the first part of an example is that of the example before it.

    Returns:
        int32 [N] rows, int32 [N, G] offsets, int32 [N] segments from 1, bool [N] whether the first part is that
        of an example before it in the row and must not be written again.

    Example: lengths [[3, 2], [4, 2], [4, 1], [2, 2]], capacities [6, 4], repeats [False, False, True, False]:
        rows [0, 1, 1, 0], offsets [[0, 0], [0, 0], [4, 2], [3, 2]], segments [1, 1, 1, 2], shared
        [False, False, True, False]
    """
    num_examples = tf.shape(lengths)[0]
    # The number of segments in a row is counted as a further part of length 1 and endless capacity.
    sizes = tf.concat([lengths, tf.ones([num_examples, 1], tf.int32)], axis=1)
    limits = tf.constant([*capacities, tf.int32.max], tf.int32)
    needs = tf.minimum(_with_followers(sizes, repeats), limits)
    # Of an example that shares: neither its first part nor a segment is new.
    own = tf.constant([0, *[1] * (len(capacities) - 1), 0], tf.int32)

    def place(
        index: tf.Tensor, used: tf.Tensor, latest: tf.Tensor, found: Sequence[tf.TensorArray]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, Sequence[tf.TensorArray]]:
        size = sizes[index]
        shares = repeats[index] & tf.reduce_all(used[latest[0]] <= limits - size * own)
        size = tf.where(shares, size * own, size)
        fits = tf.reduce_all(used <= limits - needs[index], axis=1)
        row = tf.where(shares, latest[0], tf.argmax(tf.cast(fits, tf.int32), output_type=tf.int32))
        offset = used[row]
        segment = tf.where(shares, latest[1], offset[-1] + 1)
        used = tf.tensor_scatter_nd_update(used, [[row]], [offset + size])
        values = (row, offset[:-1], segment, shares)
        found = [array.write(index, value) for array, value in zip(found, values, strict=True)]
        return index + 1, used, tf.stack([row, segment]), found

    def array(dtype: tf.DType, *shape: int) -> tf.TensorArray:
        return tf.TensorArray(dtype, size=num_examples, element_shape=shape)

    state = (
        tf.constant(0),
        tf.zeros_like(sizes),
        tf.zeros([2], tf.int32),  # row and segment of the latest example
        [array(tf.int32), array(tf.int32, len(capacities)), array(tf.int32), array(tf.bool)],
    )
    *_, found = tf.while_loop(lambda index, *_: index < num_examples, place, state)
    rows, offsets, segments, shared = [part.stack() for part in found]
    return rows, offsets, segments, shared


def _with_followers(sizes: tf.Tensor, repeats: tf.Tensor) -> tf.Tensor:
    """Returns, int32 [N, G + 1], the room that an example and the repeats right after it take together.

    Example: sizes [[3, 2, 1], [3, 4, 1], [5, 1, 1]], repeats [False, True, False]: [[3, 6, 1], [3, 4, 1], [5, 1, 1]]
    """
    up_to = tf.cumsum(sizes)
    run = tf.cumsum(tf.cast(~repeats, tf.int32))
    of_run = tf.gather(tf.math.segment_max(up_to, run), run)
    together = of_run - up_to + sizes
    return tf.concat([sizes[:, :1], together[:, 1:-1], sizes[:, -1:]], axis=1)


def _assertions(
    examples: Window,
    lengths: tf.Tensor,
    capacities: Mapping[str, int],
    companions: Mapping[str, Sequence[str]],
) -> list[tf.Operation]:
    """Returns the operations that fail on an example that does not fit or is misaligned."""
    longest = tf.reduce_max(lengths, axis=0)
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(longest <= list(capacities.values())),
            [
                f"features: an example is longer than a packed row of {dict(capacities)}; longest",
                longest,
                "(put features.guard_lengths last in the task's preprocessors)",
            ],
        )
    ]
    for leader, names in companions.items():
        for name in names:
            aligned = tf.reduce_all(examples[name].row_lengths() == examples[leader].row_lengths())
            message = f"features: an example's {name} is not as long as its {leader}"
            checks.append(tf.debugging.Assert(aligned, [message]))
    return checks
