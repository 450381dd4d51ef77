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


def _first_fit(
    examples: list[tuple[int, int, int]], capacities: tuple[int, int]
) -> list[tuple[int, tuple[int, int], int, bool]]:
    """Plain Python reference: row, offsets, segment and sharing of examples (inputs' name, inputs, targets)."""
    rows: list[list[int]] = []  # used inputs, used targets, segments
    found: list[tuple[int, tuple[int, int], int, bool]] = []
    for index, (name, inputs, targets) in enumerate(examples):
        shares = index > 0 and examples[index - 1][0] == name
        if shares:
            row, _, segment, _ = found[-1]
            shares = rows[row][1] + targets <= capacities[1]
        if not shares:
            followers = 0
            for other, _, other_targets in examples[index:]:
                if other != name:
                    break
                followers += other_targets
            room = min(followers, capacities[1])
            fits = [
                number
                for number, used in enumerate(rows)
                if used[0] + inputs <= capacities[0] and used[1] + room <= capacities[1]
            ]
            row = fits[0] if fits else len(rows)
            if not fits:
                rows.append([0, 0, 0])
            segment = rows[row][2] + 1
        found.append((row, (rows[row][0], rows[row][1]), segment, shares))
        rows[row][1] += targets
        if not shares:
            rows[row][0] += inputs
            rows[row][2] += 1
    return found


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


def test_docstring_example_with_shared_inputs(
    make_dataset: Callable[..., tf.data.Dataset],
) -> None:
    dataset = make_dataset(
        [
            {"inputs": [7, 8, 1], "targets": [3, 1]},
            {"inputs": [4, 5, 6, 1], "targets": [9, 1]},
            {"inputs": [4, 5, 6, 1], "targets": [6, 1]},
            {"inputs": [2, 1], "targets": [5, 1]},
        ]
    )
    rows = list(packing.pack(dataset, {"inputs": 6, "targets": 4}).as_numpy_iterator())
    assert rows[0]["inputs"].tolist() == [7, 8, 1, 2, 1, 0]
    assert {name: value.tolist() for name, value in rows[1].items()} == {
        "inputs": [4, 5, 6, 1, 0, 0],
        "inputs_segment_ids": [1, 1, 1, 1, 0, 0],
        "inputs_positions": [0, 1, 2, 3, 0, 0],
        "targets": [9, 1, 6, 1],
        "targets_segment_ids": [1, 1, 1, 1],
        "targets_positions": [0, 1, 0, 1],
    }


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


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(
        st.tuples(st.integers(0, 9), st.lists(st.integers(0, 6), min_size=1, max_size=6)),
        min_size=1,
        max_size=15,
    ),
    capacities=st.tuples(st.integers(9, 20), st.integers(6, 12)),
)
def test_first_fit_equals_plain_python(
    runs: list[tuple[int, list[int]]], capacities: tuple[int, int]
) -> None:
    """Every run is a number of input tokens and the target lengths of examples with the same inputs."""
    examples = [
        (name, inputs, targets)
        for name, (inputs, run) in enumerate(runs)
        for targets in run
    ]  # fmt: skip
    repeats = [bool(i) and examples[i - 1][0] == example[0] for i, example in enumerate(examples)]
    lengths = tf.constant([example[1:] for example in examples], tf.int32)
    rows, offsets, segments, shared = packing.first_fit(lengths, capacities, tf.constant(repeats))
    assert _first_fit(examples, capacities) == [
        (row, tuple(offset), segment, is_shared)
        for row, offset, segment, is_shared in zip(
            rows.numpy(), offsets.numpy().tolist(), segments.numpy(), shared.numpy(), strict=True
        )
    ]


@pytest.mark.parametrize("window", [1, 7, 512])
def test_every_example_comes_back_bit_exact(
    make_examples: Callable[..., list[dict[str, Any]]],
    make_dataset: Callable[..., tf.data.Dataset],
    window: int,
) -> None:
    examples = make_examples(40)
    for index in range(1, 40):
        if index % 5:  # five samples of each question
            examples[index]["inputs"] = examples[index - 1]["inputs"]
    # Values that an integer coding of the probabilities would lose.
    examples[0]["teacher_probs"][0] = [1.2e-38, 1e-10, 1.0]
    packed = packing.pack(make_dataset(examples), {"inputs": 30, "targets": 20}, COMPANIONS, window)
    rows = list(packed.as_numpy_iterator())
    found = []
    for row in rows:
        assert row["inputs_segment_ids"].max() == row["targets_segment_ids"].max()
        begins = (row["targets_positions"] == 0) & (row["targets_segment_ids"] > 0)
        number = np.cumsum(begins) * (row["targets_segment_ids"] > 0)
        for target in (number == one for one in range(1, number.max() + 1)):
            (segment,) = set(row["targets_segment_ids"][target])
            source = row["inputs_segment_ids"] == segment
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
    written = sum((row["inputs_segment_ids"] > 0).sum() for row in rows)
    once = sum(len(example["inputs"]) for example in examples[::5])
    each = sum(len(example["inputs"]) for example in examples)
    assert written == each if window == 1 else once <= written < each * 0.6


def _fill(lengths: np.ndarray) -> tuple[float, float]:
    """Returns the shares of positions that hold a token, of inputs and targets; lengths is int32 [N, 2], all inputs differ."""
    dataset = tf.data.Dataset.from_tensor_slices(lengths).enumerate()
    dataset = dataset.map(
        lambda index, pair: {
            "inputs": tf.fill([pair[0]], tf.cast(index + 1, tf.int32)),
            "targets": tf.ones([pair[1]], tf.int32),
        }
    )
    rows = list(packing.pack(dataset, {"inputs": 2048, "targets": 384}).as_numpy_iterator())
    assert np.sum([(row["inputs"] > 0).sum() for row in rows]) == lengths[:, 0].sum()
    inputs, targets = (np.mean([row[name] > 0 for row in rows]) for name in ("inputs", "targets"))
    return float(inputs), float(targets)


def test_fill_of_a_four_format_like_mixture() -> None:
    # Lengths of the four GSM8K formats, roughly.
    rng = np.random.default_rng(0)
    means = rng.choice([(63, 5), (68, 74), (329, 5), (632, 74)], size=2048)
    lengths = np.maximum(2, means * rng.normal(1.0, 0.2, means.shape)).astype(np.int32)
    inputs, _ = _fill(lengths)
    assert inputs > 0.93


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
    inputs, targets = _fill(lengths.astype(np.int32))
    assert inputs >= 0.9
    assert targets >= 0.7
