"""A mixture whose target tokens weigh what they weighed in the original's micro-batches.

The original cut the examples of each format into micro-batches of that format's size, took the mean loss over the target
tokens of each, and counted all micro-batches alike. So a format's share of the loss is its share of the micro-batches,
although an answer-only target is twenty times shorter than a rationale. Here the same is said by weights of target
tokens, which survive packing and shuffling: examples of a task are taken in groups of the micro-batch size, and the weights
of the target tokens of a group add up to 1. The loss of a batch is the weighted mean (`train.step`).

With e_i the rate of task i in examples and b_i its micro-batch size, its share of the loss is (e_i / b_i) / sum over tasks.

Source: FranxYao/FlanT5-CoT-Specialization, train_distill_simple.py and src/data_utils.py at commit a8ffd51.
"""

from collections.abc import Collection, Mapping, Sequence

import seqio
import tensorflow as tf

from cotdistill_jax import features
from cotdistill_jax.features.teacher import Example
from cotdistill_jax.seqio_tasks import blocks
from cotdistill_jax.seqio_tasks.blocks import SampleFn


class MicroBatchMixture(seqio.Mixture):
    """A mixture of tasks, weighed by micro-batches (module docstring)."""

    def __init__(
        self,
        name: str,
        rates: Mapping[str, float],
        micro_batch_sizes: Mapping[str, int],
        arrange: SampleFn = blocks.by_example,
        negative: Collection[str] = (),
    ) -> None:
        """Makes a mixture.

        Args:
            name: Its name.
            rates: Rate of each task, in examples; only their ratios matter.
            micro_batch_sizes: Examples in a micro-batch of each task.
            arrange: How it takes turns between its tasks.
            negative: Tasks of wrong rationales; all examples of the mixture then say whether theirs is one.
        """
        self.micro_batch_sizes = dict(micro_batch_sizes)
        names = sorted(rates)  # SeqIO's order of tasks

        def sample(
            datasets: Sequence[tf.data.Dataset], rates: Sequence[float], seed: int | None
        ) -> tf.data.Dataset:
            if len(datasets) != len(names):
                raise ValueError(
                    f"tasks: {name} weighs {len(names)} tasks and got {len(datasets)} datasets; a task has not the split"
                )
            weighed = []
            for task, dataset in zip(names, datasets, strict=True):
                if negative:
                    dataset = _mark(dataset, int(task in negative))
                weighed.append(weigh(dataset, micro_batch_sizes[task]))
            return arrange(weighed, rates, seed)

        super().__init__(name, list(rates.items()), sample_fn=sample)


def shares_of_loss(
    mixture_or_task_name: str, mean_targets: Mapping[str, float]
) -> dict[str, float]:
    """Returns the share of each task in the summed weights of the target tokens, in [0, 1], adding up to 1.

    Args:
        mixture_or_task_name: A registered task or mixture.
        mean_targets: Mean target tokens of an example, by task.

    Example: rates 1 and 1, means 6 and 114: 0.05 and 0.95; in a `MicroBatchMixture` of sizes 10 and 1: 1/11 and 10/11.
    """
    provider = seqio.get_mixture_or_task(mixture_or_task_name)
    if isinstance(provider, seqio.Task):
        return {provider.name: 1.0}
    parts = {}
    for task in provider.tasks:
        one = (
            1 / provider.micro_batch_sizes[task.name]
            if isinstance(provider, MicroBatchMixture)
            else mean_targets[task.name]
        )
        parts[task.name] = provider.get_rate(task) * one
    return {name: part / sum(parts.values()) for name, part in parts.items()}


def _mark(dataset: tf.data.Dataset, negative: int) -> tf.data.Dataset:
    """Returns the examples with `targets_negative`, int32 [L], which says so of every target token."""
    return dataset.map(
        lambda example: {
            **example,
            features.NEGATIVE: tf.fill(tf.shape(example["targets"]), negative),
        }
    )


def weigh(dataset: tf.data.Dataset, micro_batch_size: int) -> tf.data.Dataset:
    """Returns the examples with `targets_weights`, float32 [L]: those of each micro-batch add up to 1.

    A last, smaller group adds up to its part of a micro-batch.

    Args:
        dataset: Examples with `targets`, [L].
        micro_batch_size: Examples in a micro-batch.

    Example: size 2, targets of 3, 1 and 2 tokens: weights [1/4, 1/4, 1/4], [1/4], [1/4, 1/4].
    """
    spec = dataset.element_spec

    def add_weights(group: Example) -> Example:
        targets = group["targets"]
        num_examples = tf.cast(targets.nrows(), tf.float32)
        weight = num_examples / micro_batch_size / tf.cast(tf.size(targets.values), tf.float32)
        return {**group, features.WEIGHTS: tf.ones_like(targets, tf.float32) * weight}

    def with_shapes(example: Example) -> Example:
        return {
            name: tf.ensure_shape(value, spec[name].shape if name in spec else [None])
            for name, value in example.items()
        }

    groups = dataset.ragged_batch(micro_batch_size)
    return groups.map(add_weights).unbatch().map(with_shapes)
