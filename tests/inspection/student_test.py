"""Texts scored by a small student: the probabilities are those of the network, and fit the pictures."""

import pathlib

import jax
import numpy as np
import pytest
import sentencepiece

from cotdistill_jax import checkpoints, corpus, network
from cotdistill_jax.inspection import student
from cotdistill_jax.report import token_rows

CONFIG = network.T5Config(
    vocab_size=512, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1,
    num_decoder_layers=1, dropout_rate=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    params = checkpoints.init_variables(CONFIG, jax.random.key(0))["params"]
    vocabulary = corpus.arith_vocabulary()
    return checkpoints.Model(CONFIG, params, vocabulary, 0, 7, pathlib.Path("made/checkpoint_7"))


def asked(text, number=0):
    return student.Asked(f"q{number}", 0, "1 + 1?", "2", "Q: 1 + 1? A:", text)


def test_probabilities_are_those_of_the_network(model):
    text = "Both: 1 + 1 = 2.\nThe answer is 2"
    record = next(student.score_texts(model, [asked(text)], batch_size=2))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model.vocabulary_file))
    ids = [*processor.encode(text), 1]
    inputs = np.array([[*processor.encode("Q: 1 + 1? A:"), 1]])
    logits = network.Transformer(CONFIG).apply(
        {"params": model.params},
        inputs,
        np.array([[0, *ids[:-1]]]),
        np.array([ids]),
        enable_dropout=False,
    )
    probs = np.asarray(jax.nn.softmax(logits, axis=-1))[0]
    rows = token_rows.token_rows(record)
    np.testing.assert_allclose([row.prob for row in rows], probs[range(len(ids)), ids], atol=2e-6)
    for row, expected in zip(rows, probs, strict=True):
        assert row.candidates[0][1] == pytest.approx(expected.max(), abs=2e-6)
    assert record.tokens[-1] == "</s>" and record.decode_settings["step"] == 7
    assert token_rows.place(record)[0].start == 0


def test_order_and_batches_do_not_matter(model):
    texts = ["The answer is 2", "1 + 1 = 2", "2", "So 2 ☃"]
    whole = list(student.score_texts(model, [asked(t, n) for n, t in enumerate(texts)], 4))
    parts = list(student.score_texts(model, [asked(t, n) for n, t in enumerate(texts)], 3))
    assert [record.text for record in parts] == texts
    for one, other in zip(whole, parts, strict=True):
        assert one.tokens == other.tokens
        ours, theirs = (np.array([r.prob for r in token_rows.token_rows(x)]) for x in (one, other))
        np.testing.assert_allclose(ours, theirs, atol=2e-6)  # six decimals are kept
    assert "☃" in "".join(whole[3].tokens)
