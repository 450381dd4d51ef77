"""From drawn samples to labels, and from a verifier to choices: both scripts, on a tiny random network."""

import json
import pathlib
import runpy

import jax
import pytest

from cotdistill_jax import checkpoints, corpus, network
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.checkpoints import huggingface
from cotdistill_jax.inference import predictions, results, verification

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
CHOICES = [
    "vote",
    *(f"{score}_{way}" for score in verification.SCORES for way in ("best", "weighted_vote")),
]


def write(path, texts_of_questions, first=0):
    with predictions.PredictionWriter(path) as writer:
        for row, texts in enumerate(texts_of_questions, start=first):
            question = Question(f"arith/test/{row}", "arith", f"{row} apples?", "5")
            writer.append(
                predictions.graded(
                    question,
                    "zero_shot_cot",
                    text,
                    log_prob=-float(number),
                    num_tokens=3,
                    finished=True,
                    sample_id=number,
                )
                for number, text in enumerate(texts)
            )
    return path


def run(name, *arguments):
    runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))["main"](list(arguments))


def test_labels_of_several_files(tmp_path, capsys):
    files = [
        write(tmp_path / "a.jsonl", [["is 5", "is 4"]] * 3),
        write(tmp_path / "b.jsonl", [["is 5", "is 5"]] * 3, first=3),
    ]
    folder = tmp_path / "labelled"
    run(
        "label_samples",
        *("--predictions", *map(str, files)),
        f"--output_dir={folder}",
        "--validation_questions=2",
    )
    assert (
        "in 12, dropped_unfinished 0, dropped_repeated 3, out 9, right 6" in capsys.readouterr().out
    )
    splits = {split: verification.read_corpus(folder, split) for split in verification.SPLITS}
    assert len({s.question_id for s in splits["validation"]}) == 2
    assert sum(map(len, splits.values())) == 9


@pytest.fixture
def verifier(tmp_path):
    params = checkpoints.init_variables(CONFIG, jax.random.key(0))["params"]
    huggingface.write(tmp_path / "verifier", CONFIG, params)
    return [f"--verifier={tmp_path / 'verifier'}", f"--vocab={corpus.arith_vocabulary()}"]


def test_every_choice_is_tallied_and_compared(tmp_path, verifier, capsys):
    drawn = [["4", "5", "5"], ["5", "4", "4"], ["none", "5", "4"]]
    samples = write(tmp_path / "samples.jsonl", drawn)
    greedy = write(tmp_path / "greedy.jsonl", [["4"], ["5"], ["4"]])
    out = tmp_path / "out"
    run(
        "rerank",
        *verifier,
        "--predictions",
        str(samples),
        f"--greedy={greedy}",
        f"--output_dir={out}",
    )
    found = {r.prompt: r.score.correct for r in results.read(out)}
    assert found.keys() == {f"zero_shot_cot@{k}:{c}" for c in CHOICES for k in (1, 2, 3)}
    assert [found[f"zero_shot_cot@{k}:vote"] for k in (1, 2, 3)] == [1, 2, 2]
    # The student's probabilities are exp(0), exp(-1), exp(-2): the first answer wins, alone and against the two others.
    assert [found[f"zero_shot_cot@{k}:student_weighted_vote"] for k in (1, 2, 3)] == [1, 2, 2]
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [(row["id"], row["sample_id"]) for row in rows[:2]] == [
        ("arith/test/0", 0),
        ("arith/test/0", 1),
    ]
    assert all(0 < row["verdict"] < 1 and row["log_prob_if_right"] < 0 for row in rows)
    assert rows[1]["verdict"] == rows[2]["verdict"]  # the same text
    areas = json.loads((out / "manifest.json").read_text())["area_under_roc"]
    assert areas.keys() == set(verification.SCORES) and all(0 <= a <= 1 for a in areas.values())
    printed = capsys.readouterr().out
    assert (
        "vote against greedy: +33.3% of 3 questions, p = 1 (only vote 2, only greedy 1)" in printed
    )
    assert (
        "student_best against vote: +0.0% of 3 questions, p = 1 (only student_best 1, only vote 1)"
        in printed
    )


def test_samples_of_other_questions_than_greedy_are_refused(tmp_path, verifier):
    samples = write(tmp_path / "samples.jsonl", [["4", "5"]])
    greedy = write(tmp_path / "greedy.jsonl", [["4"]], first=7)
    with pytest.raises(ValueError, match="answer different questions"):
        run(
            "rerank",
            *verifier,
            *("--predictions", str(samples)),
            f"--greedy={greedy}",
            f"--output_dir={tmp_path / 'out'}",
        )
