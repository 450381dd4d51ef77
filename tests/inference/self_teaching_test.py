"""A student's completions as teacher records, and from there through alignment."""

import pathlib
import runpy

import jax
import numpy as np
import pytest
import sentencepiece

from cotdistill_jax import alignment, checkpoints, corpus, decoding, inference, network, teacher
from cotdistill_jax.alignment import corpus_records, pipeline
from cotdistill_jax.checkpoints import huggingface
from cotdistill_jax.inference import self_teaching, vocabulary

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def test_the_same_vocabulary_aligns_piece_to_piece():
    """What the student weighed at every piece is what alignment hands to the next student."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(corpus.arith_vocabulary()))
    ids = processor.encode("Bought: 7 * 9 = 63. Left: 63 - 17 = 46. The answer is 46")
    other = processor.piece_to_id("▁3")
    top_ids = [[id_, other if id_ != other else ids[0], 1] for id_ in [*ids, 1]]
    log_probs = np.log([[0.7, 0.2, 0.05]] * len(top_ids)).tolist()
    completion = decoding.Completion([*ids, 1], [-0.36] * len(top_ids), True, top_ids, log_probs)
    (part,) = inference.plan(["arith"], ["zero_shot_cot"], num_examples=1)
    words = vocabulary.Vocabulary(corpus.arith_vocabulary())
    record = self_teaching.record_of(part, decoding.Answer(0, 0, completion), 0, words, "me/1")
    teacher.validate_record(record)
    assert "".join(record.tokens) == " " + record.text
    assert record.text == "Bought: 7 * 9 = 63. Left: 63 - 17 = 46. The answer is 46"
    assert record.top_k[0] == ((" Bought", pytest.approx(0.7)), (" 3", pytest.approx(0.2)))

    aligned = alignment.align(record.tokens, record.top_k, record.text, processor)
    assert [processor.piece_to_id(one.piece) for one in aligned] == ids
    for one, (first, second, _) in zip(aligned, top_ids, strict=False):
        expected = {processor.id_to_piece(first): 0.7, processor.id_to_piece(second): 0.2}
        assert one.candidates == pytest.approx(expected), one


def test_from_a_checkpoint_to_an_aligned_corpus(tmp_path, capsys):
    params = checkpoints.init_variables(CONFIG, jax.random.key(0))["params"]
    huggingface.write(tmp_path / "hf", CONFIG, params)
    words = corpus.arith_vocabulary()
    arguments = [
        f"--checkpoint={tmp_path / 'hf'}",
        f"--vocab={words}",
        "--benchmark=arith:train",
        f"--output_dir={tmp_path / 'records'}",
        "--max_new_tokens=6",
        "--batch_size=4",
        "--num_samples=2",
        "--top_k=3",
    ]
    script = runpy.run_path(str(ROOT / "scripts" / "decode_student.py"))
    script["main"]([*arguments, "--num_examples=3"])
    assert "6 records of 3 questions" in capsys.readouterr().out
    records = list(teacher.read_records(tmp_path / "records"))
    assert len({record.key for record in records}) == 6
    assert all(len(row) <= 3 and len(r.tokens) <= 6 for r in records for row in r.top_k)
    assert any(not record.decode_settings["finished"] for record in records)
    job = pipeline.Job(
        str(tmp_path / "records"),
        str(words),
        str(tmp_path / "aligned"),
        "spans",
        3,
        False,
        allow_one_hot_share=1.0,
    )  # a network that learnt nothing draws tokens that are not among its candidates
    for number in pipeline.start(job):
        pipeline.align_shard(job, number)
    report = pipeline.finish(job)
    rows = list(corpus_records.read_corpus(tmp_path / "aligned", words))
    assert report["samples"]["in"] == 6 and len(rows) == report["samples"]["aligned"] > 0
