"""Task features -> the arrays of a training step, the teacher's rows beside the target tokens.

| task feature    | dtype   | shape  |      | model feature           | dtype   | shape  |
|-----------------|---------|--------|------|-------------------------|---------|--------|
| `inputs`        | int32   | [S]    | ->   | `encoder_input_tokens`  | int32   | [S]    |
| `targets`       | int32   | [L]    | ->   | `decoder_target_tokens` | int32   | [L]    |
|                 |         |        |      | `decoder_input_tokens`  | int32   | [L]    |
|                 |         |        |      | `decoder_loss_weights`  | int32   | [L]    |
| `teacher_ids`   | int32   | [L, K] | ->   | `decoder_teacher_ids`   | int32   | [L, K] |
| `teacher_probs` | float32 | [L, K] | ->   | `decoder_teacher_probs` | float32 | [L, K] |

Where the data have `targets_weights`, float32 [L] (a mixture that weighs its formats adds them), these are the
`decoder_loss_weights`, float32; otherwise every target token weighs 1. `targets_negative`, int32 [L] (a mixture with wrong
rationales adds it), becomes `decoder_targets_negative`.

With packing also `{encoder,decoder}_segment_ids` and `{encoder,decoder}_positions`, int32: segments
count from 1, 0 is padding; positions restart at 0 in every example. Examples that share their inputs
(`packing`) have a segment id in common. K is the data's; nothing here fixes it.

A packed example. The two examples (K=2, EOS id 1; the second one is answer-only)

    {"inputs": [7, 8, 5, 1], "targets": [3, 1],
     "teacher_ids": [[3, 6], [1, 0]], "teacher_probs": [[0.75, 0.25], [1.0, 0.0]]}
    {"inputs": [8, 4, 1], "targets": [4, 1],
     "teacher_ids": [[0, 0], [0, 0]], "teacher_probs": [[0.0, 0.0], [0.0, 0.0]]}

become one row at lengths {"inputs": 8, "targets": 5, "teacher_ids": 5, "teacher_probs": 5}:

    {"encoder_input_tokens":  [7, 8, 5, 1, 8, 4, 1, 0],
     "encoder_segment_ids":   [1, 1, 1, 1, 2, 2, 2, 0],
     "encoder_positions":     [0, 1, 2, 3, 0, 1, 2, 0],
     "decoder_target_tokens": [3, 1, 4, 1, 0],
     "decoder_input_tokens":  [0, 3, 0, 4, 0],
     "decoder_loss_weights":  [1, 1, 1, 1, 0],
     "decoder_segment_ids":   [1, 1, 2, 2, 0],
     "decoder_positions":     [0, 1, 0, 1, 0],
     "decoder_teacher_ids":   [[3, 6], [1, 0], [0, 0], [0, 0], [0, 0]],
     "decoder_teacher_probs": [[0.75, 0.25], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]}
"""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from cotdistill_jax.features import packing
from cotdistill_jax.features.declarations import NEGATIVE, WEIGHTS

_TEACHER = ("teacher_ids", "teacher_probs")
_SPECS = {
    "teacher_ids": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32, rank=2),
    "teacher_probs": seqio.FeatureConverter.FeatureSpec(dtype=tf.float32, rank=2),
    WEIGHTS: seqio.FeatureConverter.FeatureSpec(dtype=tf.float32),
    NEGATIVE: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
}
_MODEL_NAMES = {
    **{name: f"decoder_{name}" for name in (*_TEACHER, NEGATIVE)},
    WEIGHTS: "decoder_loss_weights",
}


class DistillEncDecFeatureConverter(seqio.EncDecFeatureConverter):
    """The feature converter of both runners (module docstring), T5X's `FEATURE_CONVERTER_CLS`.

    Without teacher lengths in `task_feature_lengths` (evaluation tasks, sample matching) the
    teacher features are left out and the result is that of `seqio.EncDecFeatureConverter`.
    """

    def __init__(self, pack: bool = True, use_custom_packing_ops: bool = False) -> None:
        """Makes a converter; the arguments are those that T5X passes.

        Args:
            pack: Whether several examples share a row.
            use_custom_packing_ops: Must be False: the package of those operations is gone.

        Raises:
            ValueError: If `use_custom_packing_ops` is true.
        """
        if use_custom_packing_ops:
            raise ValueError(
                "features: use_custom_packing_ops=True asks for tensor2tensor's operations, which no "
                "longer exist. Leave it False; packing here needs none."
            )
        super().__init__(pack=pack)

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        """Returns `ds` as model features.

        Args:
            ds: Examples of a task, unbatched, EOS appended.
            task_feature_lengths: Row length of `inputs` and `targets`, and of `teacher_ids` and
                `teacher_probs` where the teacher is wanted (both that of `targets`).

        Raises:
            ValueError: If teacher lengths are given, but the data have no teacher features, another
                K in each of them, or an unknown K; or if the lengths differ from the targets'
                length.
        """
        companions = _companions(task_feature_lengths)
        for name in companions:
            if task_feature_lengths.get(name) != task_feature_lengths.get("targets"):
                raise ValueError(
                    f"features: task_feature_lengths gives {name} {task_feature_lengths.get(name)} and "
                    f"targets {task_feature_lengths.get('targets')}; they must be equal. Got "
                    f"{dict(task_feature_lengths)}."
                )
        if companions:
            _check_teacher_specs(ds)
        lengths = dict(task_feature_lengths)
        for name in (WEIGHTS, NEGATIVE):
            if name in ds.element_spec:
                companions = (*companions, name)
                lengths[name] = lengths["targets"]
        return _Converter(self.pack, companions)(ds, lengths)

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Returns the length of every model feature."""
        converter = _Converter(self.pack, _companions(task_feature_lengths))
        return converter.get_model_feature_lengths(task_feature_lengths)


class _Converter(seqio.EncDecFeatureConverter):
    """SeqIO's encoder-decoder converter with features that go beside the targets, packing by first fit."""

    def __init__(self, pack: bool, companions: Sequence[str]) -> None:
        # The base class packs rank-2 features only where the packing is not its own.
        super().__init__(pack=pack, use_custom_packing_ops=pack)
        self._companions = companions
        specs = {name: _SPECS[name] for name in companions}
        self.TASK_FEATURES = {**seqio.EncDecFeatureConverter.TASK_FEATURES, **specs}
        specs = {_MODEL_NAMES[name]: spec for name, spec in specs.items()}
        self.MODEL_FEATURES = {**seqio.EncDecFeatureConverter.MODEL_FEATURES, **specs}

    def _pack_or_pad(
        self, ds: tf.data.Dataset, packed_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        if not self.pack:
            return super()._pack_or_pad(ds, packed_lengths)
        capacities = {name: packed_lengths[name] for name in ("inputs", "targets")}
        return packing.pack(ds, capacities, companions={"targets": self._companions})

    def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        beside = {_MODEL_NAMES[name]: features[name] for name in self._companions}
        return _with_blank_starts({**super()._convert_example(features), **beside})

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> Mapping[str, int]:
        lengths = dict(super().get_model_feature_lengths(task_feature_lengths))
        targets = task_feature_lengths["targets"]
        return {**lengths, **{_MODEL_NAMES[name]: targets for name in self._companions}}


def _companions(task_feature_lengths: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the teacher features that the lengths ask for: both or none."""
    return _TEACHER if any(name in task_feature_lengths for name in _TEACHER) else ()


def _with_blank_starts(features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    """Returns model features in which every example of a packed row begins with token 0.

    SeqIO sets it where a segment begins, and so only once where examples share a segment.
    """
    if "decoder_positions" not in features:
        return features
    goes_on = tf.cast(features["decoder_positions"] > 0, tf.int32)
    return {**features, "decoder_input_tokens": features["decoder_input_tokens"] * goes_on}


def _check_teacher_specs(ds: tf.data.Dataset) -> None:
    """Raises unless `ds` has both teacher features, [L, K] with one known K."""
    missing = [name for name in _TEACHER if name not in ds.element_spec]
    if missing:
        raise ValueError(
            f"features: task_feature_lengths asks for {missing}, but the data have only "
            f"{sorted(ds.element_spec)}. Train on a task with a teacher (zero_teacher makes answer-only "
            "tasks fit), or leave the teacher lengths out to match samples."
        )
    shapes = [ds.element_spec[name].shape for name in _TEACHER]
    if any(shape.rank != 2 or shape[1] is None for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"features: teacher_ids has shape {shapes[0]} and teacher_probs {shapes[1]}, expected "
            "(None, K) twice with the same known K. Check the corpus's K."
        )
