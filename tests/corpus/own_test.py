"""Corpora of one's own, from a small aligned corpus: what is held out, what is left out, what is refused."""

import pathlib

import pyarrow as pa
import pytest
import sentencepiece
import tensorflow_datasets as tfds

from cotdistill_jax import alignment, benchmarks, corpus
from cotdistill_jax.alignment import corpus_records
from cotdistill_jax.corpus import own, schema
from cotdistill_jax.teacher import records, shards, synthetic

LEAK = benchmarks.load("arith", "test")[0]


def write_aligned(folder: pathlib.Path, number: int = 6) -> pathlib.Path:
    """One right sample each of a few questions, of the first one's twin with another id, and of a test question."""
    teacher = synthetic.SyntheticTeacher(error_rate=0.0)
    asked = [
        (
            f"mine/{n}",
            f"Ana has {n} apples and gets 2. How many now?",
            f"Now: {n} + 2 = {n + 2}.",
            n,
        )
        for n in range(3, 3 + number)
    ]
    asked += [("mine/twin", f"{asked[0][1]} ", *asked[0][2:])]
    samples = [teacher.answer(id_, text, why, str(n + 2)) for id_, text, why, n in asked]
    samples.append(teacher.answer("mine/leak", LEAK.question, LEAK.rationale, LEAK.gold))
    samples = [records.TeacherRecord(**{**vars(s), "label": True}) for s in samples]
    vocabulary = corpus.arith_vocabulary()
    aligner = alignment.Aligner(
        sentencepiece.SentencePieceProcessor(model_file=str(vocabulary)), k=schema.TOP_K
    )
    batch = records.records_to_table(samples).combine_chunks().to_batches()[0]
    table = corpus_records.to_table(batch, aligner.align_records(batch), schema.TOP_K)
    config = corpus_records.config_of(aligner, vocabulary)
    with shards.ShardWriter(folder, corpus_records.LAYOUT, config=config) as writer:
        writer.write(pa.table(table))
    return folder


def builder(tmp_path: pathlib.Path, aligned: pathlib.Path, **settings: object) -> own.OwnCorpus:
    defaults = {
        "held_out_share": 0.0,
        "benchmark_dir": tmp_path / "none",
        "data_dir": tmp_path / "c",
    }
    return own.builder("mine", aligned, corpus.arith_vocabulary(), **(defaults | settings))


def ids(made: own.OwnCorpus, split: str) -> set[str]:
    rows = tfds.as_numpy(made.as_dataset(split=split))
    return {row["question_id"].decode() for row in rows}


def test_neither_a_twin_nor_a_test_question_gets_in(tmp_path):
    aligned = write_aligned(tmp_path / "aligned")
    made = builder(tmp_path, aligned, held_out_ids=["mine/3", "mine/leak"])
    made.download_and_prepare()
    assert ids(made, "validation") == {"mine/3", "mine/twin"}
    assert ids(made, "train") == {f"mine/{n}" for n in range(4, 9)}
    assert made.info.metadata["counts"]["train"]["dropped"] == {
        "held_out": 2,
        "in_test_set_of_arith": 1,
    }


def test_ids_that_no_question_has(tmp_path):
    made = builder(tmp_path, write_aligned(tmp_path / "aligned"), held_out_ids=["mine/3", "mine/x"])
    with pytest.raises(ValueError, match=r"1 of 2 ids to hold out are no question's.*'mine/x'"):
        made.download_and_prepare()


def test_a_corpus_that_is_there_is_not_taken_for_another(tmp_path):
    aligned = write_aligned(tmp_path / "aligned")
    builder(tmp_path, aligned).download_and_prepare()
    builder(tmp_path, aligned).download_and_prepare()
    more = write_aligned(tmp_path / "more", number=7)
    for settings, named in (
        ({"held_out_share": 0.5}, "held_out_share 0.0, now 0.5"),
        ({"extra_ids": 7}, "extra_ids 0, now 7"),
        ({"aligned": more}, "aligned_sha256"),
    ):
        other = builder(tmp_path, settings.pop("aligned", aligned), **settings)
        with pytest.raises(ValueError, match=f"made of something else: {named}"):
            other.download_and_prepare()


@pytest.mark.parametrize("name", ["Mine", "arith", "mine_seed_3b", "2mine", "mine-2", ""])
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(ValueError, match="can't be the name"):
        own.builder(name, tmp_path, corpus.arith_vocabulary())


def test_sentinels_below_zero(tmp_path):
    with pytest.raises(ValueError, match="extra_ids -1"):
        builder(tmp_path, tmp_path, extra_ids=-1)
