"""Packed rows hold every example whole, where first fit puts it; the iterator can be saved."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from cotdistill_jax import benchmarks, formats
from cotdistill_jax.features import packing

COMPANIONS = {"targets": ("teacher_ids", "teacher_probs")}


def _first_fit(lengths: list[tuple[int, int]], capacities: tuple[int, int]) -> list[list[int]]:
    """Plain Python reference: the examples of every row."""
    rows: list[list[int]] = []
    for index, (first, second) in enumerate(lengths):
        for row in rows:
            used = np.sum([lengths[member] for member in row], axis=0)
            if used[0] + first <= capacities[0] and used[1] + second <= capacities[1]:
                row.append(index)
                break
        else:
            rows.append([index])
    return rows


def test_docstring_example(make_dataset: Callable[..., tf.data.Dataset]) -> None:
    dataset = make_dataset(
        [
            {"inputs": [7, 8, 1], "targets": [3, 1]},
            {"inputs": [4, 5, 6, 1], "targets": [9, 1]},
            {"inputs": [2, 1], "targets": [5, 1]},
        ]
    )
    rows = list(packing.pack(dataset, {"inputs": 6, "targets": 4}).as_numpy_iterator())
    expected = [
        {
            "inputs": [7, 8, 1, 2, 1, 0],
            "inputs_segment_ids": [1, 1, 1, 2, 2, 0],
            "inputs_positions": [0, 1, 2, 0, 1, 0],
            "targets": [3, 1, 5, 1],
            "targets_segment_ids": [1, 1, 2, 2],
            "targets_positions": [0, 1, 0, 1],
        },
        {
            "inputs": [4, 5, 6, 1, 0, 0],
            "inputs_segment_ids": [1, 1, 1, 1, 0, 0],
            "inputs_positions": [0, 1, 2, 3, 0, 0],
            "targets": [9, 1, 0, 0],
            "targets_segment_ids": [1, 1, 0, 0],
            "targets_positions": [0, 1, 0, 0],
        },
    ]
    assert [{name: value.tolist() for name, value in row.items()} for row in rows] == expected


def test_examples_of_one_static_length_are_packed() -> None:
    examples = {
        "inputs": np.arange(1, 9).reshape(4, 2),
        "targets": np.arange(1, 5).reshape(4, 1),
        "teacher_ids": np.arange(1, 13).reshape(4, 1, 3),
    }
    dataset = tf.data.Dataset.from_tensor_slices(examples)
    packed = packing.pack(dataset, {"inputs": 6, "targets": 2}, {"targets": ("teacher_ids",)})
    first, second = packed.as_numpy_iterator()
    assert first["inputs"].tolist() == [1, 2, 3, 4, 0, 0]
    assert second["teacher_ids"].tolist() == [[7, 8, 9], [10, 11, 12]]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=25),
    capacities=st.tuples(st.integers(9, 20), st.integers(6, 12)),
)
def test_first_fit_equals_plain_python(
    lengths: list[tuple[int, int]], capacities: tuple[int, int]
) -> None:
    rows, offsets, numbers = packing.first_fit(tf.constant(lengths, tf.int32), capacities)
    expected = _first_fit(lengths, capacities)
    for row, members in enumerate(expected):
        start = np.zeros(2, int)
        for number, member in enumerate(members, start=1):
            assert rows[member] == row
            assert offsets[member].numpy().tolist() == start.tolist()
            assert numbers[member] == number
            start += lengths[member]


@pytest.mark.parametrize("window", [1, 7, 512])
def test_every_example_comes_back_bit_exact(
    make_examples: Callable[..., list[dict[str, Any]]],
    make_dataset: Callable[..., tf.data.Dataset],
    window: int,
) -> None:
    examples = make_examples(40)
    # Values that an integer coding of the probabilities would lose.
    examples[0]["teacher_probs"][0] = [1.2e-38, 1e-10, 1.0]
    packed = packing.pack(make_dataset(examples), {"inputs": 30, "targets": 20}, COMPANIONS, window)
    rows = list(packed.as_numpy_iterator())
    found = []
    for row in rows:
        num_segments = row["targets_segment_ids"].max()
        assert row["inputs_segment_ids"].max() == num_segments
        for segment in range(1, num_segments + 1):
            source = row["inputs_segment_ids"] == segment
            target = row["targets_segment_ids"] == segment
            assert row["inputs_positions"][source].tolist() == list(range(source.sum()))
            assert row["targets_positions"][target].tolist() == list(range(target.sum()))
            found.append(
                (
                    row["inputs"][source].tobytes(),
                    row["targets"][target].tobytes(),
                    row["teacher_ids"][target].tobytes(),
                    row["teacher_probs"][target].tobytes(),
                )
            )
        padding = row["targets_segment_ids"] == 0
        assert not row["targets"][padding].any()
        assert not row["teacher_probs"][padding].any()
        assert not row["inputs"][row["inputs_segment_ids"] == 0].any()
    expected = [
        (
            example["inputs"].astype(np.int32).tobytes(),
            example["targets"].astype(np.int32).tobytes(),
            example["teacher_ids"].astype(np.int32).tobytes(),
            example["teacher_probs"].tobytes(),
        )
        for example in examples
    ]
    assert sorted(found) == sorted(expected)
    assert len(rows) == len(examples) if window == 1 else len(rows) < len(examples) / 2


def test_fill_of_a_four_format_like_mixture() -> None:
    # Lengths of the four GSM8K formats, roughly.
    rng = np.random.default_rng(0)
    means = rng.choice([(63, 5), (68, 74), (329, 5), (632, 74)], size=2048)
    lengths = np.maximum(2, means * rng.normal(1.0, 0.2, means.shape)).astype(np.int32)
    dataset = tf.data.Dataset.from_tensor_slices(lengths).map(
        lambda pair: {
            "inputs": tf.ones([pair[0]], tf.int32),
            "targets": tf.ones([pair[1]], tf.int32),
        }
    )
    rows = list(packing.pack(dataset, {"inputs": 2048, "targets": 384}).as_numpy_iterator())
    assert np.mean([row["inputs"] for row in rows]) > 0.93
    assert np.sum([row["inputs"].sum() for row in rows]) == lengths[:, 0].sum()


def test_checkpointed_iterator_goes_on_where_it_stopped(
    make_examples: Callable[..., list[dict[str, Any]]], tmp_path: pathlib.Path
) -> None:
    examples = make_examples(60)
    ragged = {
        name: tf.ragged.constant([example[name].tolist() for example in examples], ragged_rank=1)
        for name in ("inputs", "targets", "teacher_ids", "teacher_probs")
    }
    dataset = tf.data.Dataset.from_tensor_slices(ragged).shuffle(60, seed=3).repeat(2)
    dataset = dataset.map(
        lambda example: {
            name: tf.ensure_shape(value, [None, 3] if name.startswith("teacher") else [None])
            for name, value in example.items()
        }
    )
    packed = packing.pack(dataset, {"inputs": 30, "targets": 20}, COMPANIONS, window=16)
    iterator = iter(packed)
    for _ in range(9):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "iterator"))
    restored = iter(packed)
    tf.train.Checkpoint(iterator=restored).read(path)
    rest = [row["inputs"].numpy().tolist() for row in restored]
    assert len(rest) > 20
    assert rest == [row["inputs"].numpy().tolist() for row in iterator]


def test_too_long_example_raises(make_dataset: Callable[..., tf.data.Dataset]) -> None:
    dataset = make_dataset([{"inputs": [5] * 7, "targets": [1]}])
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than a packed row"):
        list(packing.pack(dataset, {"inputs": 6, "targets": 4}))


def test_misaligned_companion_raises(make_dataset: Callable[..., tf.data.Dataset]) -> None:
    dataset = make_dataset(
        [
            {
                "inputs": [5],
                "targets": [6, 1],
                "teacher_ids": [[1, 0, 0]],
                "teacher_probs": [[1.0, 0.0, 0.0]],
            }
        ]
    )
    packed = packing.pack(dataset, {"inputs": 6, "targets": 4}, COMPANIONS)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="teacher_ids is not as long as its targets"
    ):
        list(packed)


def test_missing_feature_raises(make_dataset: Callable[..., tf.data.Dataset]) -> None:
    dataset = make_dataset([{"inputs": [5]}])
    with pytest.raises(ValueError, match=r"cannot pack \['targets'\]: the data have \['inputs'\]"):
        packing.pack(dataset, {"inputs": 6, "targets": 4})


@pytest.mark.real_data
def test_fill_of_the_real_four_format_mixture(data_dir: pathlib.Path) -> None:
    vocabulary = sentencepiece.SentencePieceProcessor(
        model_file=str(data_dir / "t5" / "spiece.model")
    )
    pool = {question.id: question for question in benchmarks.load("gsm8k", "train", data_dir)}
    ids = list(pool)
    kinds = list(formats.FORMATS.values())
    pairs = []
    for index, question in enumerate(np.random.default_rng(0).permutation(ids)[:2048]):
        made, asked = kinds[index % 4], pool[question]
        drawn = formats.draw_demonstrations(ids, question, seed=0) if made.in_context else ()
        demonstrations = [
            made.render_demonstration(pool[one].question, pool[one].rationale, pool[one].gold)
            for one in drawn
        ]
        pairs.append(
            (
                made.render_input(asked.question, demonstrations),
                made.render_target(asked.rationale, asked.gold),
            )
        )
    lengths = np.array([[len(ids) + 1 for ids in vocabulary.encode(list(pair))] for pair in pairs])
    dataset = tf.data.Dataset.from_tensor_slices(lengths.astype(np.int32)).map(
        lambda pair: {
            "inputs": tf.ones([pair[0]], tf.int32),
            "targets": tf.ones([pair[1]], tf.int32),
        }
    )
    rows = list(packing.pack(dataset, {"inputs": 2048, "targets": 384}).as_numpy_iterator())
    assert np.mean([row["inputs"] for row in rows]) >= 0.9
    assert np.mean([row["targets"] for row in rows]) >= 0.7
