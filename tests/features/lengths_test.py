"""Nothing is trimmed: what does not fit is left out whole, counted, or refused."""

from collections.abc import Callable

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cotdistill_jax import features

VOCABULARY = seqio.ByteVocabulary()
# Lengths with EOS: (3, 2), (4, 2), (2, 4), (6, 6), (1, 1).
EXAMPLES = [
    {"question_id": "q0", "inputs": [5, 6], "targets": [7]},
    {"question_id": "q1", "inputs": [5, 6, 7], "targets": [7]},
    {"question_id": "q2", "inputs": [5], "targets": [7, 8, 9]},
    {"question_id": "q3", "inputs": [5] * 5, "targets": [7] * 5},
    {"question_id": "q4", "inputs": [], "targets": []},
]
EOS = seqio.preprocessors.append_eos


@pytest.fixture
def guarded(register: Callable[..., str]) -> str:
    """A registered task whose examples pass `guard_lengths` last."""
    return register(
        "lengths_guarded",
        EXAMPLES,
        [EOS, features.guard_lengths],
        features.text_features(VOCABULARY),
    )


def _targets(name: str, sequence_length: dict[str, int] | None) -> list[list[int]]:
    dataset = seqio.get_mixture_or_task(name).get_dataset(sequence_length, shuffle=False)
    return [example["targets"].tolist() for example in dataset.as_numpy_iterator()]


def test_guard_keeps_whole_examples_that_fit(guarded: str) -> None:
    assert _targets(guarded, {"inputs": 3, "targets": 3}) == [[7, 1], [1]]
    assert _targets(guarded, {"inputs": 3, "targets": 4}) == [[7, 1], [7, 8, 9, 1], [1]]


def test_guard_without_limits_keeps_everything(guarded: str) -> None:
    assert len(_targets(guarded, None)) == len(EXAMPLES)
    dataset = tf.data.Dataset.range(3)
    assert features.guard_lengths(dataset, None) is dataset
    assert features.guard_lengths(dataset, {"inputs": None, "teacher_ids": 3}) is dataset


def test_guard_docstring_example(make_dataset: Callable[..., tf.data.Dataset]) -> None:
    dataset = make_dataset(
        [{"inputs": [5, 6, 7, 1], "targets": [8, 1]}, {"inputs": [5, 1], "targets": [8, 9, 1]}]
    )
    kept = list(features.guard_lengths(dataset, {"inputs": 4, "targets": 2}).as_numpy_iterator())
    assert [example["inputs"].tolist() for example in kept] == [[5, 6, 7, 1]]


def test_require_names_the_record(register: Callable[..., str]) -> None:
    name = register(
        "lengths_required",
        EXAMPLES,
        [EOS, features.require_lengths],
        features.text_features(VOCABULARY),
    )
    assert len(_targets(name, {"inputs": 6, "targets": 6})) == len(EXAMPLES)
    assert len(_targets(name, None)) == len(EXAMPLES)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)targets has.*4.*allowed.*3.*q2"):
        _targets(name, {"inputs": 6, "targets": 3})


def test_count_lengths(guarded: str) -> None:
    (report,) = features.count_lengths(guarded, "train", {"inputs": 3, "targets": 3}).values()
    assert report.examples == 5
    assert report.over_long_inputs == 2
    assert report.over_long_targets == 2
    assert report.kept == 2 == len(_targets(guarded, {"inputs": 3, "targets": 3}))
    assert report.inputs == features.LengthSummary(6, {50.0: 3, 90.0: 6, 99.0: 6, 99.9: 6})
    assert report.targets.percentiles[50.0] == 2
    kept = _targets(guarded, {"inputs": 3, "targets": 3})
    assert report.mean_targets == np.mean([len(targets) for targets in kept])


def test_count_lengths_of_a_mixture(guarded: str, register: Callable[..., str]) -> None:
    register("lengths_other", EXAMPLES[:2], [EOS], features.text_features(VOCABULARY))
    seqio.MixtureRegistry.add("lengths_mixture", [(guarded, 1.0), ("lengths_other", 2.0)])
    try:
        reports = features.count_lengths("lengths_mixture", "train", None, max_examples=3)
    finally:
        seqio.MixtureRegistry.remove("lengths_mixture")
    assert {name: report.examples for name, report in reports.items()} == {
        "lengths_guarded": 3,
        "lengths_other": 2,
    }
    assert reports["lengths_guarded"].kept == 3


def test_count_lengths_of_nothing_raises(guarded: str) -> None:
    with pytest.raises(ValueError, match="lengths_guarded has no example in split 'train'"):
        features.count_lengths(guarded, "train", None, max_examples=0)
