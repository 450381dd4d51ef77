"""The dataset `arith`: what goes in, what comes out, and that rows fit the vocabulary."""

import json
import pathlib

import numpy as np
import pytest
import sentencepiece
import tensorflow_datasets as tfds

from cotdistill_jax import answers, corpus
from cotdistill_jax.benchmarks import arith as problems
from cotdistill_jax.corpus import arith, schema

NUM = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A TFDS data directory with a small corpus."""
    path = tmp_path_factory.mktemp("tfds")
    arith.Arith(num_questions=NUM, data_dir=path).download_and_prepare()
    return path


@pytest.fixture(scope="module")
def rows(folder: pathlib.Path) -> dict[str, list[dict]]:
    """All rows of all splits."""
    builder = tfds.builder_from_directory(folder / "arith" / schema.VERSION)
    return {s: list(tfds.as_numpy(builder.as_dataset(split=s))) for s in schema.SPLITS}


@pytest.fixture(scope="module")
def processor() -> sentencepiece.SentencePieceProcessor:
    """The shipped vocabulary."""
    return sentencepiece.SentencePieceProcessor(model_file=str(corpus.arith_vocabulary()))


def test_counts_add_up(folder: pathlib.Path, rows: dict[str, list[dict]]) -> None:
    metadata = json.loads((folder / "arith" / schema.VERSION / "metadata.json").read_text())
    train = metadata["counts"]["train"]
    assert train["in"] == NUM + NUM // arith.SECOND_SAMPLE_EVERY
    assert train["in"] - train["out"] == sum(train["dropped"].values())
    assert 10 <= train["dropped"]["wrong_answer"] <= 60
    assert {split: len(rows[split]) for split in rows} == {
        split: metadata["counts"][split]["out"] for split in rows
    }
    assert len(rows["test"]) == 200
    assert metadata["vocabulary_sha256"] == corpus.checksum(corpus.arith_vocabulary())


def test_corpus_of_the_other_teacher_is_refused(folder: pathlib.Path) -> None:
    message = r"teacher 'synthetic', expected 'synthetic, several derivations'\. Delete"
    with pytest.raises(ValueError, match=message):
        arith.Arith(num_questions=NUM, data_dir=folder, several_derivations=True)


def test_only_correct_samples_are_in(rows: dict[str, list[dict]]) -> None:
    for split in schema.SPLITS:
        for row in rows[split]:
            gold = row["answer"].decode()
            assert answers.is_correct(row["text"].decode(), gold)
            assert row["answer_sentence"].decode() == f"The answer is {gold}"


def test_pieces_spell_the_text(
    rows: dict[str, list[dict]], processor: sentencepiece.SentencePieceProcessor
) -> None:
    for split in schema.SPLITS:
        for row in rows[split]:
            assert processor.encode(row["text"].decode()) == row["pieces"].tolist()


def test_teacher_rows_hold_the_piece_first(rows: dict[str, list[dict]]) -> None:
    num_soft = 0
    for row in rows["train"]:
        assert row["teacher_ids"].dtype == row["teacher_probs"].dtype == np.uint16
        assert row["teacher_ids"].shape == (len(row["pieces"]), schema.TOP_K)
        np.testing.assert_array_equal(row["teacher_ids"][:, 0], row["pieces"])
        sums = row["teacher_probs"].sum(axis=1, dtype=int)
        assert sums.max() <= 10_000
        assert sums.min() > 0
        num_soft += (row["teacher_probs"][:, 0] < 10_000).sum()
    assert num_soft > 10 * len(rows["train"])


def test_held_out_rows_are_gold_without_teacher(rows: dict[str, list[dict]]) -> None:
    for split in ("validation", "test"):
        golds = {q.id: q for q in problems.load(split)}
        for row in rows[split]:
            gold = golds[row["question_id"].decode()]
            assert row["text"].decode() == f"{gold.rationale}\nThe answer is {gold.gold}"
            assert not row["teacher_probs"].any()
            assert row["held_out"]
    assert not any(row["held_out"] for row in rows["train"])


def test_one_first_row_per_question(rows: dict[str, list[dict]]) -> None:
    ids = [row["question_id"] for row in rows["train"]]
    firsts = [row["question_id"] for row in rows["train"] if row["first_of_question"]]
    assert sorted(firsts) == sorted(set(ids))
    assert len(ids) > len(firsts)


def test_repeatable(rows: dict[str, list[dict]], tmp_path: pathlib.Path) -> None:
    builder = arith.Arith(num_questions=NUM, data_dir=tmp_path)
    builder.download_and_prepare()
    for left, right in zip(
        rows["train"], tfds.as_numpy(builder.as_dataset(split="train")), strict=True
    ):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_several_derivations_of_right_answers(
    rows: dict[str, list[dict]], tmp_path: pathlib.Path
) -> None:
    builder = arith.Arith(num_questions=NUM, several_derivations=True, data_dir=tmp_path)
    builder.download_and_prepare()
    texts = {
        row["question_id"]: row["text"].decode()
        for row in tfds.as_numpy(builder.as_dataset(split="train"))
        if answers.is_correct(row["text"].decode(), row["answer"].decode())
    }
    usual = {row["question_id"]: row["text"].decode() for row in rows["train"]}
    both = texts.keys() & usual.keys()
    assert len(both) > 0.7 * NUM
    assert 0.5 < sum(texts[id_] != usual[id_] for id_ in both) / len(both) < 0.95
    others = dict(
        zip(
            (q.id.encode() for q in problems.load("train", NUM)),
            problems.other_rationales("train", NUM),
            strict=True,
        )
    )
    labels = {id_: [line.partition(":")[0] for line in texts[id_].split("\n")[:-1]] for id_ in both}
    other_way = [
        id_
        for id_ in both
        if others[id_]
        and labels[id_] == [line.partition(":")[0] for line in others[id_].split("\n")]
    ]
    assert 0.3 < len(other_way) / sum(others[id_] is not None for id_ in both) < 0.7
