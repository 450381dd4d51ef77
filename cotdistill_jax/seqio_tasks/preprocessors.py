"""SeqIO preprocessors from corpus rows (`corpus.schema`) to features, in front of those in `features`."""

from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from cotdistill_jax import formats
from cotdistill_jax.features.teacher import Example

OutputFeatures = Mapping[str, seqio.Feature]

PROBABILITY_STEPS = 10_000.0
_INPUTS = ("inputs", "inputs_pretokenized")
_KEPT = ("question_id", "sample_id", "question", "answer")


def keep_first_of_question(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the rows that answer-only tasks use: the first one of each question."""
    return dataset.filter(lambda row: row["first_of_question"])


def finished_inputs(dataset: tf.data.Dataset, output_features: OutputFeatures) -> tf.data.Dataset:
    """Returns the rows with `inputs` (ids) and `inputs_pretokenized` from the field `input`."""
    vocabulary = _vocabulary(output_features, "inputs")

    def tokenise(row: Example) -> Example:
        return {
            **row,
            "inputs_pretokenized": row["input"],
            "inputs": vocabulary.encode_tf(row["input"]),
        }

    return dataset.map(tokenise, num_parallel_calls=tf.data.AUTOTUNE)


@seqio.map_over_dataset
def aligned_targets(row: Example) -> Example:
    """Returns the aligned pieces as `targets`, and the teacher's rows as ids (int32) and probabilities (float32).

    Example: `teacher_probs` [[9862, 0]] becomes [[0.9862, 0.0]], the float32 nearest to the teacher's decimals.
    """
    return {
        **_kept(row),
        "targets_pretokenized": row["text"],
        "targets": row["pieces"],
        "teacher_ids": tf.cast(row["teacher_ids"], tf.int32),
        "teacher_probs": tf.cast(row["teacher_probs"], tf.float32) / PROBABILITY_STEPS,
    }


def text_targets(
    field: str,
) -> Callable[[tf.data.Dataset, OutputFeatures], tf.data.Dataset]:
    """Returns a preprocessor that tokenises a text field as `targets`.

    Args:
        field: `text` (chain of thought) or `answer_sentence` (answer only).
    """

    def preprocess(dataset: tf.data.Dataset, output_features: OutputFeatures) -> tf.data.Dataset:
        vocabulary = _vocabulary(output_features, "targets")

        def tokenise(row: Example) -> Example:
            targets = vocabulary.encode_tf(row[field])
            return {**_kept(row), "targets_pretokenized": row[field], "targets": targets}

        return dataset.map(tokenise, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def _vocabulary(output_features: OutputFeatures, feature: str) -> seqio.Vocabulary:
    """Returns a feature's vocabulary, loaded: TensorFlow would wrap the errors of loading it while a function is traced."""
    vocabulary = output_features[feature].vocabulary
    vocabulary.load_model()
    return vocabulary


def _kept(row: Example) -> Example:
    """Returns the fields that later steps, error messages and metrics need."""
    names = [*_KEPT, *(name for name in _INPUTS if name in row)]
    # SeqIO's cache writer cannot store booleans.
    return {**{name: row[name] for name in names}, "held_out": tf.cast(row["held_out"], tf.int32)}


def zero_shot_inputs(
    form: formats.Format,
) -> Callable[[tf.data.Dataset, OutputFeatures], tf.data.Dataset]:
    """Returns a preprocessor that makes `inputs` (ids) and `inputs_pretokenized` of a zero-shot format."""

    def preprocess(dataset: tf.data.Dataset, output_features: OutputFeatures) -> tf.data.Dataset:
        vocabulary = _vocabulary(output_features, "inputs")

        def render(example: Example) -> Example:
            text = tf.strings.join([form.query_prefix, example["question"], form.query_suffix])
            return {**example, "inputs_pretokenized": text, "inputs": vocabulary.encode_tf(text)}

        return dataset.map(render, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


@seqio.map_over_dataset
def without_held_out_teacher(example: Example) -> Example:
    """Returns the example; one that is held out gets rows of zeros, also for EOS: its target is gold, not the teacher's."""
    in_training = 1 - example["held_out"]
    return {
        **example,
        "teacher_ids": example["teacher_ids"] * in_training,
        "teacher_probs": example["teacher_probs"] * tf.cast(in_training, tf.float32),
    }


def fuse(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the same examples, with neighbouring maps run as one: a third less time on these short examples."""
    options = tf.data.Options()
    options.experimental_optimization.map_fusion = True
    return dataset.with_options(options)
