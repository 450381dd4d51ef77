"""Accuracy during training: SeqIO's evaluator, with predictions by `decoding.generate` on the training's mesh.

Parameters stay where they are; the prompts are split over the data axis. Every process reads all prompts, takes part in
decoding and gets all answers and the metrics.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
from jax.sharding import Mesh

from cotdistill_jax import decoding, features, network, partitioning
from cotdistill_jax.train.step import unstacked


@dataclasses.dataclass
class Evaluation:
    """Evaluates parameters on the split of a task or mixture with the `metric_fns` of each task.

    Attributes:
      mixture_or_task_name: what to evaluate.
      feature_lengths: positions of `inputs`, and of `targets`: the most tokens generated.
      split: split to read.
      num_examples: examples per task; None: all.
      batch_size: prompts decoded together; on a mesh whose data axes do not divide it, up to the next number that they do.
      seed: seed of random preprocessing (drawing demonstrations).
    """

    mixture_or_task_name: str
    feature_lengths: Mapping[str, int]
    split: str = "validation"
    num_examples: int | None = None
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Leaves room for the evaluator, which reads its data when first used."""
        self._evaluator: seqio.Evaluator | None = None

    def __call__(
        self,
        config: network.T5Config,
        params: Any,
        step: int,
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Returns the metrics of every task as `eval/{task}/{metric}`.

        Args:
          config: dimensions of the network.
          params: its parameters.
          step: of the training.
          check: called before each round of decoding; may raise to end the evaluation.
        """
        mesh = _mesh_of(params)
        shards = 1 if mesh is None else partitioning.num_row_shards(mesh)
        batch_size = -(-self.batch_size // shards) * shards
        if config.scan_layers:
            config, params = unstacked(config, params, mesh)
            weights = decoding.prepare(config, params, consume=True)
        else:
            weights = decoding.prepare(config, params)
        evaluator = self._evaluator or self._make_evaluator()
        self._evaluator = evaluator

        def predict(dataset: tf.data.Dataset) -> list[tuple[int, list[int]]]:
            numbered = list(dataset.as_numpy_iterator())
            prompts = [_without_padding(example["encoder_input_tokens"]) for _, example in numbered]
            limit = self.feature_lengths["targets"]
            completions = decoding.generate(
                config,
                weights,
                prompts,
                limit,
                batch_size=batch_size,
                mesh=mesh,
                before_round=check,
            )
            # SeqIO stacks the predictions, so all get the same length.
            return [
                (
                    int(number),
                    completion.tokens + [decoding.PAD_ID] * (limit - len(completion.tokens)),
                )
                for (number, _), completion in zip(numbered, completions, strict=True)
            ]

        metrics, _ = evaluator.evaluate(compute_metrics=True, step=step, predict_fn=predict)
        per_task = metrics.result()
        return {
            f"eval/{task}/{name}": float(value)
            for task, values in per_task.items()
            for name, value in values.items()
        }

    def _make_evaluator(self) -> seqio.Evaluator:
        check_lengths(
            self.mixture_or_task_name, self.feature_lengths, self.split, self.num_examples
        )
        return seqio.Evaluator(
            self.mixture_or_task_name,
            feature_converter=features.DistillEncDecFeatureConverter(pack=False),
            eval_split=self.split,
            sequence_length=sequence_length(self.mixture_or_task_name, self.feature_lengths),
            num_examples=self.num_examples,
            seed=self.seed,
            logger_cls=[],
        )


def sequence_length(
    mixture_or_task_name: str, feature_lengths: Mapping[str, int]
) -> dict[str, int]:
    """Returns the lengths of all features of a task, as SeqIO's evaluator wants them: the teacher's are the targets'."""
    declared = seqio.get_mixture_or_task(mixture_or_task_name).output_features
    teacher = [name for name in declared if name.startswith("teacher_")]
    return {**feature_lengths, **dict.fromkeys(teacher, feature_lengths["targets"])}


def check_lengths(
    mixture_or_task_name: str,
    feature_lengths: Mapping[str, int],
    split: str,
    num_examples: int | None,
) -> None:
    """Checks that the examples of every task fit: an accuracy without the others is another one.

    Args:
      mixture_or_task_name: what to evaluate.
      feature_lengths: positions of `inputs` and `targets`.
      split: split to read.
      num_examples: examples per task to look at; None: all.

    Raises:
      ValueError: an example does not fit; the message says how many do and the longest lengths.
    """
    reports = features.count_lengths(mixture_or_task_name, split, feature_lengths, num_examples)
    for name, report in reports.items():
        if report.kept < report.examples:
            raise ValueError(
                f"evaluation: {report.kept} of the first {report.examples} examples of {name} ({split}) fit "
                f"{dict(feature_lengths)}: the longest input has {report.inputs.maximum} tokens, the longest target "
                f"{report.targets.maximum}; raise EVAL_FEATURE_LENGTHS"
            )


def _mesh_of(params: Any) -> Mesh | None:
    """Returns the mesh of several devices that parameters are on, if they are on one."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def _without_padding(tokens: np.ndarray) -> list[int]:
    return [int(token) for token in tokens if token != decoding.PAD_ID]
