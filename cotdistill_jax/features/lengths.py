"""Lengths: examples that do not fit are kept out whole and counted, never trimmed.

SeqIO trims whatever is longer than the feature length. A trimmed target has lost its answer and a
trimmed input its question, so tasks end with `guard_lengths` (training: leaves such examples out)
or `require_lengths` (evaluation: stops, as the former does at held-out examples). `count_lengths` states how many examples that concerns.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from cotdistill_jax.features.teacher import Example, record_of

SequenceLength = Mapping[str, int | Sequence[int] | None]

_GUARDED = ("inputs", "targets")
_BATCH = 1024


def guard_lengths(
    dataset: tf.data.Dataset, sequence_length: SequenceLength | None = None
) -> tf.data.Dataset:
    """Returns the examples of `dataset` whose inputs and targets both fit, unchanged and in order.

    The last preprocessor of a training task, after EOS is appended. `count_lengths` says how many
    examples it leaves out. Of an example that says that it is held out (`held_out` is 1) nothing but
    inputs and targets that fit will do, as in `require_lengths`: without it an accuracy is another one.

    Args:
        dataset: Examples with `inputs` int32 [S] and `targets` int32 [L], EOS included.
        sequence_length: Handed in by SeqIO: positions allowed per feature. None, also for a single
            feature, sets no limit.

    Example: sequence_length {"inputs": 4, "targets": 2}:
        {"inputs": [5, 6, 7, 1], "targets": [8, 1]} stays,
        {"inputs": [5, 1], "targets": [8, 9, 1]} does not.
    """
    limits = _limits(sequence_length)

    def fits(example: Example) -> tf.Tensor:
        return tf.reduce_all([tf.shape(example[name])[0] <= limits[name] for name in limits])

    if not limits:
        return dataset
    if "held_out" not in dataset.element_spec:
        return dataset.filter(fits)
    dataset = dataset.filter(lambda example: fits(example) | (example["held_out"] > 0))
    return require_lengths(dataset, sequence_length)


def require_lengths(
    dataset: tf.data.Dataset, sequence_length: SequenceLength | None = None
) -> tf.data.Dataset:
    """Returns `dataset` unchanged; reading it stops at the first example that does not fit.

    The last preprocessor of an evaluation task: leaving examples out would change the benchmark.

    Args:
        dataset: Examples with `inputs` int32 [S] and `targets` int32 [L], EOS included.
        sequence_length: Handed in by SeqIO, as for `guard_lengths`.

    Raises:
        tf.errors.InvalidArgumentError: While reading; the message names feature, lengths, record.
    """
    limits = _limits(sequence_length)

    def check(example: Example) -> Example:
        checks = []
        for name, limit in limits.items():
            length = tf.shape(example[name])[0]
            message = [f"features: {name} has", length, "tokens, allowed are", limit]
            message += ["(raise the feature length, of evaluation EVAL_FEATURE_LENGTHS); record"]
            message += record_of(example)
            checks.append(tf.debugging.Assert(length <= limit, message))
        with tf.control_dependencies(checks):
            return {**example, "inputs": tf.identity(example["inputs"])}

    return dataset.map(check, num_parallel_calls=tf.data.AUTOTUNE) if limits else dataset


def _limits(sequence_length: SequenceLength | None) -> dict[str, int]:
    """Returns the limit of every guarded feature that has one."""
    limits = {}
    for name in _GUARDED:
        limit = (sequence_length or {}).get(name)
        if limit is not None:
            limits[name] = limit if isinstance(limit, int) else limit[0]
    return limits


@dataclasses.dataclass(frozen=True)
class LengthSummary:
    """Lengths of one feature in tokens, EOS included.

    Attributes:
        maximum: Longest.
        percentiles: Length that 50, 90, 99 and 99.9 per cent of the examples do not exceed.
    """

    maximum: int
    percentiles: Mapping[float, int]


@dataclasses.dataclass(frozen=True)
class LengthReport:
    """How the examples of one task fit the feature lengths.

    Attributes:
        examples: Examples seen.
        over_long_inputs: Of these, with inputs above the limit.
        over_long_targets: Of these, with targets above the limit (some may be in both).
        kept: Of these, with neither; `guard_lengths` leaves out the others.
        inputs: Lengths of all inputs seen.
        targets: Lengths of all targets seen.
        mean_targets: Mean target tokens of those kept; 0 where none is.
    """

    examples: int
    over_long_inputs: int
    over_long_targets: int
    kept: int
    inputs: LengthSummary
    targets: LengthSummary
    mean_targets: float


def count_lengths(
    task_or_mixture_name: str,
    split: str,
    sequence_length: SequenceLength | None,
    max_examples: int | None = None,
    seed: int = 0,
    use_cached: bool = False,
) -> dict[str, LengthReport]:
    """Returns, for every task of a mixture, how many examples fit and how long they are.

    Args:
        task_or_mixture_name: A registered task or mixture.
        split: Split to read.
        sequence_length: Positions allowed per feature, as a run sets them; None sets no limit.
        max_examples: Stop after this many examples of each task; None reads all.
        seed: Seed of random preprocessing (drawing demonstrations).
        use_cached: Whether to read SeqIO's offline cache.

    Raises:
        ValueError: If a task has no example.
    """
    provider = seqio.get_mixture_or_task(task_or_mixture_name)
    limits = _limits(sequence_length)
    return {
        task.name: _report(_read_lengths(task, split, max_examples, seed, use_cached), limits)
        for task in seqio.get_subtasks(provider)
    }


def _read_lengths(
    task: seqio.Task, split: str, max_examples: int | None, seed: int, use_cached: bool
) -> np.ndarray:
    """Returns int64 [examples, 2]: tokens of inputs and of targets."""
    dataset = task.get_dataset(
        sequence_length=None, split=split, shuffle=False, seed=seed, use_cached=use_cached
    )
    dataset = dataset.map(
        lambda example: tf.stack([tf.size(example[name]) for name in _GUARDED]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    dataset = dataset if max_examples is None else dataset.take(max_examples)
    batches = list(dataset.batch(_BATCH).as_numpy_iterator())
    if not batches:
        raise ValueError(f"features: task {task.name} has no example in split {split!r}")
    return np.concatenate(batches)


def _report(lengths: np.ndarray, limits: Mapping[str, int]) -> LengthReport:
    """Returns the report on `lengths`, [examples, 2]."""
    over = lengths > [limits.get(name, np.inf) for name in _GUARDED]
    kept = ~over.any(axis=1)
    return LengthReport(
        examples=len(lengths),
        over_long_inputs=int(over[:, 0].sum()),
        over_long_targets=int(over[:, 1].sum()),
        kept=int(kept.sum()),
        inputs=_summarise(lengths[:, 0]),
        targets=_summarise(lengths[:, 1]),
        mean_targets=float(lengths[kept, 1].mean()) if kept.any() else 0.0,
    )


def _summarise(lengths: np.ndarray) -> LengthSummary:
    """Returns maximum and percentiles of `lengths`, [examples]."""
    ranks = (50.0, 90.0, 99.0, 99.9)
    values = np.percentile(lengths, ranks, method="inverted_cdf")
    return LengthSummary(int(lengths.max()), dict(zip(ranks, map(int, values), strict=True)))
