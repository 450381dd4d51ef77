import pathlib
import subprocess
import sys

import pytest

from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import predictions

ROOT = pathlib.Path(__file__).parents[2]


def write(path, texts):
    with predictions.PredictionWriter(path) as writer:
        writer.append(
            predictions.graded(
                Question(f"gsm8k/test/{row}", "gsm8k", f"{row}?", gold),
                "zero_shot_cot",
                text,
                log_prob=-1.0,
                num_tokens=3,
                finished=True,
            )
            for row, (text, gold) in enumerate(texts)
        )
    return path


def rescore(*flags):
    return subprocess.run(
        [sys.executable, "scripts/rescore.py", *flags],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    texts = [("The answer is 5", "5"), ("The answer is 1,025", "2,025"), ("So 7", "7"), ("?", "1")]
    return write(tmp_path_factory.mktemp("left") / "p.jsonl", texts)


def test_all_rules_and_disagreements_are_printed(left):
    done = rescore(f"--predictions={left}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    row = lines[1].split()
    assert row[:4] == ["gsm8k", "zero_shot_cot", "4", "50.00%"]
    assert "answer_is 25.00%" in lines[1] and "seed_last_number 75.00%" in lines[1]
    assert "grades that changed since they were saved: 0" in lines
    place = lines.index(
        "seed_last_number disagrees with last_number on 1 texts: 0 wrong instead of right, 1 right instead of wrong"
    )
    assert lines[place + 1] == (
        "  gsm8k/test/1  gold '2,025'  last_number reads '1025', seed_last_number reads '025'  "
        "in 'The answer is 1,025'"
    )


def test_few_disagreements_are_shown_and_all_counted(left):
    printed = rescore(f"--predictions={left}", "--show=0").stdout
    assert "answer_is disagrees with last_number on 1 texts: 1 wrong instead of right" in printed
    assert "  ... and 1 more (--show=1 lists all)" in printed and "reads" not in printed


def test_grades_of_older_rules_are_noticed(left, tmp_path):
    old = tmp_path / "old.jsonl"
    old.write_text(left.read_text().replace('"last_number": true', '"last_number": false', 1))
    before = old.read_bytes()
    assert "since they were saved: 1\n" in rescore(f"--predictions={old}").stdout
    assert old.read_bytes() == before


def test_samples_are_voted_on(tmp_path):
    path = tmp_path / "samples.jsonl"
    question = Question("gsm8k/test/0", "gsm8k", "?", "5")
    with predictions.PredictionWriter(path) as writer:
        writer.append(
            predictions.graded(
                question,
                "zero_shot_cot",
                text,
                log_prob=-1.0,
                num_tokens=3,
                finished=True,
                sample_id=number,
            )
            for number, text in enumerate(["4", "5", "5"])
        )
    lines = rescore(f"--predictions={path}").stdout.splitlines()
    assert [line.split()[1:4] for line in lines[1:4]] == [
        ["zero_shot_cot@1", "1", "0.00%"],
        ["zero_shot_cot@2", "1", "0.00%"],
        ["zero_shot_cot@3", "1", "100.00%"],
    ]


def test_files_of_the_papers_code_are_read(tmp_path):
    path = tmp_path / "svamp_test_end.txt"
    path.write_text("Q: 2 + 3?\nA_model:\nThe answer is 5</s>\nA:\n5\n\n")
    printed = rescore(f"--predictions={path}", "--transcript_of=svamp").stdout
    assert printed.splitlines()[1].split()[:4] == ["svamp", "transcript", "1", "100.00%"]


def test_files_of_the_papers_code_are_written(left, tmp_path):
    path = tmp_path / "transcript.txt"
    printed = rescore(f"--predictions={left}", f"--write_transcript={path}").stdout
    assert f"written as a transcript: 4 texts, {path}" in printed
    assert path.read_text().startswith("Q: 0?\nA_model:\nThe answer is 5</s>\nA:\n5\n\nQ: 1?\n")
    again = rescore(f"--predictions={path}", "--transcript_of=gsm8k").stdout
    assert again.splitlines()[1].split()[:4] == ["gsm8k", "transcript", "4", "50.00%"]


def test_two_files_are_compared_in_pairs(left, tmp_path):
    texts = [("none", "5"), ("2,025", "2,025"), ("none", "7"), ("1", "1")]
    right = write(tmp_path / "right.jsonl", texts)
    printed = rescore(f"--predictions={left}", f"--versus={right}").stdout
    assert (
        "last_number                 difference +0.00%  p = 1.0000  both right 0, only first 2, only second 2, neither 0"
        in printed
    )


def test_other_questions_are_refused(left, tmp_path):
    right = write(tmp_path / "right.jsonl", [("5", "5")])
    done = rescore(f"--predictions={left}", f"--versus={right}")
    assert done.returncode != 0
    assert "the two sides answer different questions: 4 left, 1 right" in done.stderr


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    done = rescore(f"--predictions={tmp_path / 'empty.jsonl'}")
    assert done.returncode != 0 and "holds no predictions" in done.stderr
