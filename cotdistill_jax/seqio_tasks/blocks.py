"""How a mixture takes turns between its tasks: many examples of one task, then many of another.

SeqIO draws a task for every example. The seed's first way of batching gave each optimizer step examples of one format,
cut in a row from a list in which a question's samples follow each other ("same question in a batch"); its later way,
"fully random", shuffled the micro-batches. Here a mixture of tasks by question (`sources.ByQuestionSource`) and in blocks
does the former, SeqIO's usual mixture the latter, example by example.
"""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

SampleFn = Callable[[Sequence[tf.data.Dataset], Sequence[float], int | None], tf.data.Dataset]

by_example: SampleFn = functools.partial(
    tf.data.Dataset.sample_from_datasets, stop_on_empty_dataset=True
)
"""SeqIO's own way: a task is drawn for every example."""


def in_blocks(sizes: Sequence[int]) -> SampleFn:
    """Returns a mixture's `sample_fn` that draws a task for a whole block of its examples.

    The rates stay those of examples: a task whose blocks are larger is drawn less often.

    Args:
        sizes: Examples in a block of each task, in the order of `seqio.Mixture.tasks` (by name).

    Example: sizes (2, 1) and rates (0.5, 0.5) give sequences such as a a b b a a b.
    """

    def sample(
        datasets: Sequence[tf.data.Dataset], rates: Sequence[float], seed: int | None
    ) -> tf.data.Dataset:
        if len(datasets) != len(sizes):
            raise ValueError(
                f"tasks: a mixture in blocks of {list(sizes)} got {len(datasets)} datasets; give one size per task that has "
                "the split"
            )
        turns = tf.data.Dataset.sample_from_datasets(
            [
                tf.data.Dataset.from_tensors(tf.constant(task, tf.int64)).repeat()
                for task in range(len(sizes))
            ],
            weights=[rate / size for rate, size in zip(rates, sizes, strict=True)],
            seed=seed,
        )
        lengths = tf.constant(sizes, tf.int64)
        choices = turns.flat_map(
            lambda task: tf.data.Dataset.from_tensors(task).repeat(lengths[task])
        )
        return tf.data.Dataset.choose_from_datasets(
            list(datasets), choices, stop_on_empty_dataset=True
        )

    return sample
