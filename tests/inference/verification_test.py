"""Labels, choices and scores of a verifier, and its task, on a tiny random network."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import seqio

import tasks.verifier
from cotdistill_jax import checkpoints, corpus, network
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import predictions, verification, verifier_model

CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
RULE = "last_number"


def samples(row, texts, gold="5", finished=True):
    question = Question(f"arith/train/{row}", "arith", f"{row} apples?", gold)
    return [
        predictions.graded(
            question,
            "zero_shot_cot",
            text,
            log_prob=-1.0,
            num_tokens=3,
            finished=finished,
            sample_id=number,
        )
        for number, text in enumerate(texts)
    ]


def test_what_the_verifier_reads():
    assert verification.render("1 + 1?", True) == "right\nQ: 1 + 1?\nLet's think step by step"
    assert verification.render("1 + 1?", False) == "wrong\nQ: 1 + 1?\nLet's think step by step"


def test_bayes_rule_and_its_limits():
    assert verification.Judgement(-2.0, -2.0).verdict == 0.5
    assert verification.Judgement(math.log(0.3), math.log(0.1)).verdict == pytest.approx(0.75)
    assert verification.Judgement(math.log(0.3), math.log(0.1)).likelihood == pytest.approx(0.3)
    for log_probs, verdict in (((0.0, -1e5), 1.0), ((-1e5, 0.0), 0.0)):
        assert verification.Judgement(*log_probs).verdict == verdict


def test_repeated_and_unfinished_samples_are_counted_and_left_out():
    drawn = samples(0, ["is 5", "is 4", "is 5"]) + samples(1, ["is 5"], finished=False)
    kept, counts = verification.label(drawn, RULE)
    assert [(s.rationale, s.right) for s in kept] == [("is 5", True), ("is 4", False)]
    assert counts == {
        "in": 4,
        "dropped_unfinished": 1,
        "dropped_repeated": 1,
        "out": 2,
        "right": 1,
    }


def test_the_choices():
    drawn = samples(0, ["is 4", "is 4.", "is 5", "so 5", "none"])
    scores = dict(zip([s.key for s in drawn], [0.3, 0.1, 0.2, 0.25, 0.9], strict=True))

    def choice(choose):
        (found,) = verification.chosen(drawn, choose, scores)
        return found.text, found.sample_id

    assert choice(verification.vote) == ("is 4", 0)
    assert choice(verification.best_of) == ("is 4", 0)  # the highest score has no answer
    assert choice(verification.weighted_winner) == ("is 5", 0)  # 0.45 against 0.40
    with pytest.raises(ValueError, match="no samples to choose from"):
        verification.chosen([], verification.vote, {})


def test_the_students_own_probability_is_a_score():
    drawn = samples(0, ["is 4", "is 5"])
    assert verification.student_scores(drawn) == {s.key: pytest.approx(math.exp(-1)) for s in drawn}
    unknown = [dataclasses.replace(drawn[0], log_prob=None)]
    with pytest.raises(
        ValueError, match=r"1 samples have no log_prob, such as \('arith/train/0', 0\)"
    ):
        verification.student_scores(unknown)


def test_separation_is_the_area_under_the_curve():
    drawn = samples(0, ["5", "4", "5", "4"])
    keys = [s.key for s in drawn]
    for values, area in (
        ([0.9, 0.1, 0.8, 0.2], 1.0),
        ([0.5, 0.5, 0.5, 0.5], 0.5),
        ([0.9, 0.2, 0.1, 0.3], 0.5),
        ([0.3, 0.3, 0.9, 0.1], 0.875),
    ):
        assert verification.separation(
            drawn, dict(zip(keys, values, strict=True)), RULE
        ) == pytest.approx(area)
    assert verification.separation(drawn[:1], {keys[0]: 0.1}, RULE) is None


@pytest.fixture
def labelled(tmp_path):
    """A folder of labelled samples of ten questions, two of them held out."""
    file = tmp_path / "drawn.jsonl"
    with predictions.PredictionWriter(file) as writer:
        for row in range(10):
            writer.append(samples(row, ["it is 5", "it is 4"]))
    counts = verification.write_corpus(
        tmp_path / "labelled", [file], validation_questions=2, seed=1
    )
    assert (counts["train"], counts["validation"], counts["right"]) == (16, 4, 10)
    return tmp_path / "labelled"


def test_no_question_is_in_both_splits(labelled):
    ids = [
        {s.question_id for s in verification.read_corpus(labelled, split)}
        for split in verification.SPLITS
    ]
    assert [len(one) for one in ids] == [8, 2] and not ids[0] & ids[1]
    manifest = json.loads((labelled / "manifest.json").read_text())
    assert manifest["counts"]["in"] == 20 and len(manifest["inputs"]) == 1


def test_bad_labelled_samples(labelled, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"scripts/label_samples\.py"):
        verification.read_corpus(tmp_path / "none", "train")
    (labelled / "train.jsonl").write_text('{"question_id": "a"}\n')
    with pytest.raises(ValueError, match=r"train\.jsonl line 1 is no labelled sample"):
        verification.read_corpus(labelled, "train")
    with pytest.raises(ValueError, match="right and wrong samples of more than 200 questions"):
        verification.write_corpus(tmp_path / "few", [tmp_path / "drawn.jsonl"])


def test_the_task(labelled, monkeypatch):
    task = seqio.TaskRegistry.get("arith_verifier_v2")
    monkeypatch.delenv(tasks.verifier.DATA_DIR_VARIABLE, raising=False)
    lengths = {"inputs": 48, "targets": 16}
    with pytest.raises(FileNotFoundError, match="COTDISTILL_VERIFIER_DIR is not set"):
        task.get_dataset(lengths, "train")
    monkeypatch.setenv(tasks.verifier.DATA_DIR_VARIABLE, str(labelled))
    examples = list(task.get_dataset(lengths, "train", shuffle=False).as_numpy_iterator())
    words = task.output_features["targets"].vocabulary
    read = {
        (words.decode(e["inputs"].tolist()), words.decode(e["targets"].tolist())) for e in examples
    }
    assert len(examples) == 16 and len(read) == 16
    (first, *_) = verification.read_corpus(labelled, "train")
    assert first.right
    rendered = verification.render(first.question, True).replace("\n", " ")
    assert (rendered, first.rationale) in read
    assert sum(inputs.startswith("wrong ") for inputs, _ in read) == 8
    assert all(e["targets"][-1] == 1 and e["inputs"][-1] == 1 for e in examples)


def test_judgements_are_the_networks_own_whatever_the_batch():
    params = checkpoints.init_variables(CONFIG, jax.random.key(0))["params"]
    model = checkpoints.Model(
        CONFIG, params, corpus.arith_vocabulary(), 0, 0, corpus.arith_vocabulary()
    )
    questions = ["1 + 1?", "Olga buys 7 boxes of 9 marbles. How many?", "2 + 2?", "1 + 1?"]
    rationales = ["It is 2.", "7 * 9 = 63. The answer is 63", "5", "It is 2."]
    one = verifier_model.Verifier(model, batch_size=1).judge(questions, rationales)
    three = verifier_model.Verifier(model, batch_size=3).judge(questions, rationales)
    np.testing.assert_allclose(one, three, rtol=1e-5)
    assert one[3] == one[0] and len(set(one)) == 3

    processor = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()))

    def log_prob(right):
        inputs = [*processor.encode(verification.render(questions[0], right)), 1]
        targets = [*processor.encode(rationales[0]), 1]
        logits = network.Transformer(CONFIG).apply(
            {"params": params},
            np.array([inputs]),
            np.array([[0, *targets[:-1]]]),
            np.ones((1, len(targets)), int),
            enable_dropout=False,
        )
        log_probs = np.asarray(jax.nn.log_softmax(logits[0]))
        return sum(log_probs[place, token] for place, token in enumerate(targets))

    assert one[0] == pytest.approx((log_prob(True), log_prob(False)), rel=1e-5)
    assert one[0].log_prob_if_right != one[0].log_prob_if_wrong
