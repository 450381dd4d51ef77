"""The effective mixture: what share of the training each task really has, and how its examples are made.

With r_i the rate of task i, and s_i and t_i the mean number of input and target tokens of the examples that fit:

    share by example   r_i / sum r
    share by token     r_i (s_i + t_i) / sum over tasks        computing time, roughly
    share of the loss  r_i t_i / sum over tasks                the loss is a mean over target tokens, so long targets weigh more;
                       a mixture weighed by micro-batches (`seqio_tasks.MicroBatchMixture`) has its own
"""

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from cotdistill_jax import features, seqio_tasks
from cotdistill_jax.benchmarks import Question, normalise_question

_BATCH = 512
_GUARDED = ("inputs", "targets")


@dataclasses.dataclass(frozen=True)
class TaskShare:
    """What one task contributes.

    Attributes:
        name: name of the task.
        rate: mixing rate; 1 for a task on its own.
        lengths: examples seen, kept, dropped as too long, length percentiles.
        mean_inputs: mean input tokens of the kept examples, EOS included.
        mean_targets: mean target tokens of the kept examples, EOS included.
        with_teacher: share of target tokens that have a teacher row with mass.
        kept_mass: mean mass of these rows; None without any.
        num_questions: different questions, normalised, among the examples seen.
        repeated_questions: examples whose question was seen before in the same task.
        repeated_examples: examples whose question and target were both seen before.
        by_example: share of the mixture by example, in [0, 1].
        by_token: share by input and target tokens.
        of_loss: share of the loss, that is of the summed weights of target tokens.
    """

    name: str
    rate: float
    lengths: features.LengthReport
    mean_inputs: float
    mean_targets: float
    with_teacher: float
    kept_mass: float | None
    num_questions: int
    repeated_questions: int
    repeated_examples: int
    by_example: float
    by_token: float
    of_loss: float


@dataclasses.dataclass(frozen=True)
class Effective:
    """A mixture as it is trained on; `questions` are all that were seen, by id."""

    tasks: tuple[TaskShare, ...]
    questions: Mapping[str, Question]


@dataclasses.dataclass
class _Counts:
    sizes: list[np.ndarray]
    rows: int = 0
    mass: float = 0.0
    questions: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: set[tuple[str, bytes]] = dataclasses.field(default_factory=set)


def measure(
    name: str,
    split: str,
    lengths: Mapping[str, int] | None = None,
    max_examples: int | None = None,
    seed: int = 0,
) -> Effective:
    """Returns the shares of the tasks of a mixture, or of one task.

    Args:
        name: registered task or mixture.
        split: split to read.
        lengths: positions allowed for `inputs` and `targets`; longer examples are counted as dropped. None: no limit.
        max_examples: examples read per task; None reads all.
        seed: seed of random preprocessing.

    Raises:
        ValueError: unknown name, a task without examples, or one of which nothing fits.
    """
    provider = seqio.get_mixture_or_task(name)
    reports = features.count_lengths(name, split, lengths, max_examples, seed)
    questions: dict[str, Question] = {}
    parts = []
    for task in sorted(seqio.get_subtasks(provider), key=lambda t: t.name):
        counts = _count(task, split, max_examples, seed, questions)
        sizes = np.concatenate(counts.sizes)
        limits = [(lengths or {}).get(feature, np.inf) for feature in _GUARDED]
        fitting = sizes[(sizes <= limits).all(axis=1)]
        if not len(fitting):
            raise ValueError(
                f"inspection: none of {len(sizes)} examples of {task.name} fits {dict(lengths or {})}; raise the lengths"
            )
        rate = provider.get_rate(task) if isinstance(provider, seqio.Mixture) else 1.0
        parts.append((task.name, float(rate), counts, sizes, fitting.mean(axis=0)))
    totals = np.sum([rate * _weights(means) for _, rate, _, _, means in parts], axis=0)
    of_loss = seqio_tasks.shares_of_loss(name, {task: means[1] for task, _, _, _, means in parts})
    shares = tuple(
        _share(
            task,
            rate,
            counts,
            sizes,
            means,
            reports[task],
            rate * _weights(means) / totals,
            of_loss[task],
        )
        for task, rate, counts, sizes, means in parts
    )
    return Effective(shares, questions)


def _weights(means: np.ndarray) -> np.ndarray:
    """Returns what one example weighs: by example, by token."""
    return np.array([1.0, means.sum()])


def _share(
    name: str,
    rate: float,
    counts: _Counts,
    sizes: np.ndarray,
    means: np.ndarray,
    report: features.LengthReport,
    shares: np.ndarray,
    of_loss: float,
) -> TaskShare:
    return TaskShare(
        name=name,
        rate=rate,
        lengths=report,
        mean_inputs=float(means[0]),
        mean_targets=float(means[1]),
        with_teacher=counts.rows / float(sizes[:, 1].sum()),
        kept_mass=counts.mass / counts.rows if counts.rows else None,
        num_questions=len(counts.questions),
        repeated_questions=counts.questions.total() - len(counts.questions),
        repeated_examples=counts.questions.total() - len(counts.examples),
        by_example=float(shares[0]),
        by_token=float(shares[1]),
        of_loss=float(of_loss),
    )


def _count(
    task: seqio.Task,
    split: str,
    max_examples: int | None,
    seed: int,
    questions: dict[str, Question],
) -> _Counts:
    """Returns the counts of a task, and adds its questions to `questions`."""
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False, seed=seed)
    dataset = dataset if max_examples is None else dataset.take(max_examples)
    dataset = dataset.map(_summarise, num_parallel_calls=tf.data.AUTOTUNE).batch(_BATCH)
    counts = _Counts([])
    for batch in dataset.as_numpy_iterator():
        counts.sizes.append(batch["sizes"])
        counts.rows += int(batch["rows"].sum())
        counts.mass += float(batch["mass"].sum())
        texts = [text.decode() for text in batch["question"].tolist()]
        plain = [normalise_question(text) for text in texts]
        counts.questions.update(plain)
        counts.examples.update(zip(plain, batch["target"].tolist(), strict=True))
        for id_, text in zip(batch["id"].tolist(), texts, strict=True):
            questions.setdefault(id_.decode(), Question(id_.decode(), task.name, text, "?"))
    return counts


def _summarise(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the numbers and texts of an example that are counted."""
    rows = tf.reduce_sum(example.get("teacher_probs", tf.zeros([0, 1])), axis=-1)
    question = example.get("question", example["inputs_pretokenized"])
    return {
        "sizes": tf.stack([tf.size(example[name]) for name in _GUARDED]),
        "rows": tf.math.count_nonzero(rows),
        "mass": tf.reduce_sum(rows),
        "id": example.get("question_id", question),
        "question": question,
        "target": example["targets_pretokenized"],
    }
