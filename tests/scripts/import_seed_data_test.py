"""The import command on small released pickles and a transcript: what it writes, repairs, refuses and resumes."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import pytest

from cotdistill_jax import teacher
from cotdistill_jax.teacher import formatted, shards

ROOT = pathlib.Path(__file__).parents[2]
TAIL = [[("\n", 1.0)], [("\n", 1.0)]]


def steps_of(text):
    tokens = text.replace(" ", "| ").replace("\n", "|\n|").split("|")
    answer = [[(token, 0.75), (token, 0.75), (" 7", 0.125)] for token in tokens if token]
    return [[(" step", 1.0)], [("\n", 0.5)], *answer, *TAIL]


def sample_text(number, sample):
    right = sample != number % 3
    return f"So it is {number + 1 + (not right)}\nThe answer is {number + 1 + (not right)}"


@pytest.fixture
def processed(tmp_path):
    """Six questions with three samples each, one of them wrong; question 3 stands there twice."""
    folder = tmp_path / "processed_data"
    folder.mkdir()
    numbers = [0, 1, 2, 3, 3, 4, 5]
    texts = [[sample_text(number, sample) for sample in range(3)] for number in range(6)]
    example = {
        "question": "Q: What? A:",
        "answer": "The answer is 2",
        "answer_gold": "Answer: so\n#### 2\n",
        "answer_label": 1,
        "type": "zero_shot_answer_only",
    }
    files = {
        "codex_questions": [f"Question {number}: {number} + 1?\n" for number in numbers],
        "codex_answers": [f"Answer: so\n#### {number + 1}\n" for number in range(6)],
        "codex_predictions": [
            [f"Model output {s}: \n{t}\n" for s, t in enumerate(row)] for row in texts
        ],
        "codex_per_step_probs": [[steps_of(text) for text in row] for row in texts],
        "codex_prediction_labels": [[int(s != n % 3) for s in range(3)] for n in range(6)],
        "codex_dtw_transformed_step_probs": [
            [[{"▁So": 1.0}, {"▁it": 0.75}] if s else None for s in range(3)] for _ in range(6)
        ],
        "zero_shot_answer_only": [
            example | {"question": f"Q: {number}? A:"} for number in range(9)
        ],
    }
    for name, items in files.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(items))
    return folder


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "import_seed_data.py"), *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )


def run_pickles(folder, output, *extra):
    return run(f"--processed_data={folder}", f"--output_dir={output}", *extra)


def test_imports_records_and_examples(processed, tmp_path):
    output = tmp_path / "seed"
    done = run_pickles(processed, output)
    assert done.returncode == 0, done.stderr
    records = list(teacher.read_records(output / "codex_records"))
    assert [record.key for record in records] == [
        (f"gsm8k/train/{n}", s) for n in range(6) for s in range(3)
    ]
    assert [record.label for record in records[:6]] == [False, True, True, True, False, True]
    assert [
        each.row for each in formatted.read_examples(output / "formatted" / "zero_shot_answer_only")
    ] == list(range(9))
    report = json.loads((output / "import.json").read_text())["codex_records"]
    assert report["repeated_questions_left_out"] == [
        {"position": 4, "question_id": "gsm8k/train/3"}
    ]
    assert report["counts"] == {"in": 18, "out": 18, "dropped": {}}
    aligned = list(formatted.read_examples(output / "codex_aligned"))
    assert [each.row for each in aligned] == [n for n in range(18) if n % 3]
    assert aligned[0].target == sample_text(0, 1)
    assert "codex_aligned: 18 in, 12 out" in done.stdout
    by_rule = {each["rule"]: each for each in report["statistics"]}
    assert by_rule["last_number"]["first_sample_accuracy"] == 0.6667
    assert by_rule["seed_last_number"]["majority_accuracy"] == 1.0
    assert "codex_per_step_probs.pkl: 0.0 MiB, 6 records, checked" in done.stdout
    assert "first sample 66.67%, majority of 18 samples 100.00% of 6 questions" in done.stdout
    manifest = shards.read_manifest(output / "codex_records", teacher.records.LAYOUT)
    assert set(manifest["inputs"]) == {path.name for path in processed.glob("codex_*.pkl")}


def test_resumes_after_an_interruption(processed, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_pickles(processed, whole).returncode == 0
    labels = processed / "codex_prediction_labels.pkl"
    right = labels.read_bytes()
    labels.write_bytes(
        pickle.dumps([[0, 1, 1], [1, 0, 1], [1, 1, 2], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
    )
    stopped = run_pickles(processed, cut)
    assert stopped.returncode == 1 and "record 2" in stopped.stderr
    with pytest.raises(shards.ShardError, match="incomplete"):
        list(teacher.read_records(cut / "codex_records"))
    labels.write_bytes(right)
    assert run_pickles(processed, cut).returncode == 0
    assert list(teacher.read_records(cut / "codex_records")) == list(
        teacher.read_records(whole / "codex_records")
    )
    assert run_pickles(processed, whole).returncode == 0  # nothing left to do


def test_a_malicious_file_runs_nothing_and_writes_nothing(processed, tmp_path):
    class Call:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    (processed / "codex_per_step_probs.pkl").write_bytes(pickle.dumps([[], Call()]))
    done = run_pickles(processed, tmp_path / "seed")
    assert done.returncode == 1
    assert "codex_per_step_probs.pkl record 1" in done.stderr and "posix.system" in done.stderr
    assert not (tmp_path / "executed").exists() and not (tmp_path / "seed").exists()


def test_an_invalid_record_is_an_error_or_counted(processed, tmp_path):
    steps = [[steps_of(sample_text(n, s)) for s in range(3)] for n in range(6)]
    steps[2][1][3] = [("a", 1.5)]
    (processed / "codex_per_step_probs.pkl").write_bytes(pickle.dumps(steps))
    done = run_pickles(processed, tmp_path / "seed")
    assert done.returncode == 1
    assert "teacher record ('gsm8k/train/2', 1), step 3 ('a')" in done.stderr
    counted = run_pickles(processed, tmp_path / "other", "--keep_whole")
    assert "17 out, dropped: {'invalid_record': 1}" in counted.stdout


def test_labels_of_the_release(processed, tmp_path):
    (processed / "codex_prediction_labels.pkl").write_bytes(
        pickle.dumps([[0, 0, 0] for _ in range(6)])
    )
    assert run_pickles(processed, tmp_path / "seed", "--label_rule=released").returncode == 0
    assert {r.label for r in teacher.read_records(tmp_path / "seed" / "codex_records")} == {False}
    report = json.loads((tmp_path / "seed" / "import.json").read_text())["codex_records"][
        "statistics"
    ][0]
    assert report["stored_labels"] == {"correct": 0, "wrong": 18, "none": 0, "not_by_this_rule": 12}


def write_transcript(path, num_questions):
    with path.open("w", encoding="utf-8") as out:
        for number in range(num_questions):
            out.write(f"Question {number}: {number} + 1?\nAnswer: so\n#### {number + 1}\n")
            for sample in range(3):
                text = sample_text(number, sample)
                steps = (
                    "".join(f"<<{t!r}>> {p:.4f} " for t, p in step) + "||| "
                    for step in steps_of(text)
                )
                out.write(f"Model output {sample}: \n{text}\nPer-step decode: {''.join(steps)}\n")
            out.write("\n\n\n\n")


def test_a_transcript_gives_the_same_records_as_the_pickles(processed, tmp_path):
    path = tmp_path / "train_codex_complex_total.txt"
    write_transcript(path, 6)
    assert run(f"--transcript={path}", f"--output_dir={tmp_path / 'text'}").returncode == 0
    assert run_pickles(processed, tmp_path / "pickles").returncode == 0
    folders = (tmp_path / name / "codex_records" for name in ("text", "pickles"))
    from_text, from_pickles = (list(teacher.read_records(folder)) for folder in folders)
    assert from_text == from_pickles


def test_a_cut_off_transcript(tmp_path):
    path = tmp_path / "train.txt"
    write_transcript(path, 2)
    path.write_text(path.read_text()[:-200])
    arguments = (f"--transcript={path}", f"--output_dir={tmp_path / 'seed'}")
    done = run(*arguments)
    assert done.returncode == 1 and "question 1" in done.stderr
    again = run(*arguments[:1], f"--output_dir={tmp_path / 'other'}", "--keep_whole")
    assert again.returncode == 0, again.stderr
    assert "5 out, dropped: {'cut_off_sample': 1}" in again.stdout
