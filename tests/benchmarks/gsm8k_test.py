import json

import numpy as np
import pytest

from cotdistill_jax import benchmarks
from cotdistill_jax.benchmarks import gsm8k


def write(folder, train, test=(), dev=()):
    (folder / "gsm8k").mkdir()
    for name, records in (("train", train), ("test", test)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"gsm8k/{name}.jsonl").write_text(lines, encoding="utf-8")
    np.save(folder / "gsm8k/seed_dev_200_index.npy", np.array(dev, dtype=np.int64))
    return folder


def record(number):
    return {
        "question": f"Question\u2028{number}?",
        "answer": f"2+{number}=<<2+{number}=9>>9 < 10\nSo ${number}.\n#### {number},000",
    }


def test_reads_question_gold_and_rationale(tmp_path):
    write(tmp_path, train=[record(1)], test=[record(2), record(3)])
    assert benchmarks.load("gsm8k", split="test", data_dir=tmp_path)[1] == benchmarks.Question(
        id="gsm8k/test/1",
        benchmark="gsm8k",
        question="Question\u20283?",
        gold="3,000",
        rationale="2+3=9 < 10\nSo $3.",
    )


def test_dev_rows_leave_train_and_keep_their_ids(tmp_path):
    write(tmp_path, train=[record(n) for n in range(5)], dev=[3, 1])
    ids = {
        split: [q.id for q in benchmarks.load("gsm8k", split=split, data_dir=tmp_path)]
        for split in ("train", "dev", "train_and_dev")
    }
    assert ids["train"] == ["gsm8k/train/0", "gsm8k/train/2", "gsm8k/train/4"]
    assert ids["dev"] == ["gsm8k/train/1", "gsm8k/train/3"]
    assert ids["train_and_dev"] == [f"gsm8k/train/{row}" for row in range(5)]


def test_parse_answer():
    parsed = gsm8k.parse_answer("He has 2+3=<<2+3=5>>5.\n#### 5")
    assert parsed == ("He has 2+3=5.", "5")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            {"question": "Q?"},
            r"train.jsonl record 1: field 'answer' is missing; it has \['question'\]",
        ),
        ({"question": "Q?", "answer": 5}, r"record 1: field 'answer' must be str, got 5"),
        ({"question": " ", "answer": "#### 5"}, r"record 1: field 'question' is empty"),
        (
            {"question": "Q?", "answer": "5"},
            r"record 1: field 'answer': expected a last line '#### ",
        ),
        (
            {"question": "Q?", "answer": "5\n#### "},
            r"record 1: field 'answer': expected a last line",
        ),
        (["Q?"], r"record 1: expected a mapping with field 'question'"),
    ],
)
def test_a_broken_record_is_named(tmp_path, broken, message):
    write(tmp_path, train=[record(0), broken])
    with pytest.raises(ValueError, match=message):
        benchmarks.load("gsm8k", split="train", data_dir=tmp_path)


@pytest.mark.parametrize("line", [b'{"question": ', b"\xff\xfe", b"\n\n]"])
def test_a_line_that_is_not_json_is_named(tmp_path, line):
    write(tmp_path, train=[record(0)])
    with (tmp_path / "gsm8k/train.jsonl").open("ab") as file:
        file.write(line)
    number = 2 + line.count(b"\n")
    with pytest.raises(ValueError, match=rf"train\.jsonl line {number} is not valid JSON"):
        benchmarks.load("gsm8k", split="train", data_dir=tmp_path)


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    write(tmp_path, train=[record(0), record(1)])
    path = tmp_path / "gsm8k/train.jsonl"
    expected = benchmarks.load("gsm8k", split="train_and_dev", data_dir=tmp_path)
    path.write_bytes(b"\xef\xbb\xbf\r\n" + path.read_bytes().replace(b"\n", b"\r\n \r\n\r\n"))
    assert benchmarks.load("gsm8k", split="train_and_dev", data_dir=tmp_path) == expected


@pytest.mark.parametrize(
    ("dev", "message"),
    [
        ([7], "names row 7 of gsm8k/train.jsonl, which has 1"),
        ([-1], "must hold a vector of row numbers"),
        ([[0]], "must hold a vector of row numbers"),
    ],
)
def test_wrong_dev_rows_are_refused(tmp_path, dev, message):
    write(tmp_path, train=[record(0)], dev=dev)
    with pytest.raises(ValueError, match=message):
        benchmarks.load("gsm8k", split="dev", data_dir=tmp_path)


def test_a_dev_file_that_is_no_array_is_refused(tmp_path):
    write(tmp_path, train=[record(0)])
    (tmp_path / "gsm8k/seed_dev_200_index.npy").write_text("not an array")
    with pytest.raises(ValueError, match=r"seed_dev_200_index.npy is not a NumPy array file"):
        benchmarks.load("gsm8k", split="dev", data_dir=tmp_path)


@pytest.mark.real_data
def test_the_paper_demonstrations_are_train_rows(data_dir):
    ids = {q.id for q in benchmarks.load("gsm8k", split="train", data_dir=data_dir)}
    assert {f"gsm8k/train/{row}" for row in (802, 6893, 7003, 2778)} <= ids


@pytest.mark.real_data
def test_no_calculator_mark_or_answer_line_is_left(data_dir):
    rationales = [
        q.rationale
        for split in ("train_and_dev", "test")
        for q in benchmarks.load("gsm8k", split=split, data_dir=data_dir)
    ]
    assert len(rationales) == 8792
    assert not [r for r in rationales if "<<" in r or ">>" in r or "####" in r or r != r.strip()]
