"""Evaluation during training gives the accuracy that the evaluator (`cotdistill_jax.inference`) gives for the same checkpoint."""

import dataclasses

import jax
import pytest
import seqio
import tensorflow as tf

from cotdistill_jax import benchmarks, checkpoints, corpus, features, formats, inference, network
from cotdistill_jax.inference import planning
from cotdistill_jax.seqio_tasks import metrics
from cotdistill_jax.train import evaluation

CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
NUM_QUESTIONS = 24
TASK = "evaluation_test_arith"


@pytest.fixture(scope="module")
def model():
    """A network that says different numbers to different questions: untrained, with large embeddings."""
    params = checkpoints.init_variables(CONFIG, jax.random.key(3))["params"]
    params = jax.tree.map(lambda leaf: 4 * leaf, params)
    words = corpus.arith_vocabulary()
    return checkpoints.Model(CONFIG, params, words, 0, 0, words.with_name("in memory"))


def test_the_same_accuracy_as_the_evaluator(model, tmp_path, monkeypatch):
    questions = benchmarks.load("arith")[:NUM_QUESTIONS]

    def evaluate(folder):
        settings = {"max_new_tokens": 12, "progress": False}
        (result,) = inference.evaluate(
            model, ["arith"], ["zero_shot_cot"], folder, num_examples=NUM_QUESTIONS, **settings
        )
        return result

    evaluate(tmp_path / "first")
    said = inference.read_predictions(tmp_path / "first/predictions/arith.zero_shot_cot.jsonl")
    answered = [p for p in said if p.extracted["last_number"] is not None]
    assert len({p.text for p in answered}) > 1 and len(answered) < NUM_QUESTIONS
    # Golds that make every other answer right: an untrained network has no accuracy worth comparing.
    golds = {p.id: p.extracted["last_number"] for p in answered[::2]}
    questions = [dataclasses.replace(q, gold=golds.get(q.id, "12345")) for q in questions]
    monkeypatch.setattr(planning.benchmarks, "load", lambda *_: questions)
    expected = evaluate(tmp_path / "second").score
    assert 0 < expected.correct == len(golds)

    zero_shot = formats.FORMATS["zero_shot_cot"]
    rows = {
        "inputs": [zero_shot.render_input(q.question) for q in questions],
        "targets": ["unused"] * NUM_QUESTIONS,
        "answer": [q.gold for q in questions],
    }
    vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()))
    seqio.TaskRegistry.add(
        TASK,
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensor_slices(rows),
            splits=["validation"],
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=features.text_features(vocabulary),
        postprocess_fn=metrics.gold_or_prediction,
        metric_fns=[metrics.accuracy],
    )
    found = evaluation.Evaluation(TASK, {"inputs": 256, "targets": 12})(CONFIG, model.params, 0)
    seqio.TaskRegistry.remove(TASK)
    assert found[f"eval/{TASK}/accuracy"] == pytest.approx(100 * expected.accuracy)
    assert found[f"eval/{TASK}/unparsed"] == pytest.approx(100 * expected.unparsed / NUM_QUESTIONS)
