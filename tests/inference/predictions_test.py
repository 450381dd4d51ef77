import dataclasses
import json
import resource

import pytest

from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import predictions


def prediction(row, text="The answer is 5"):
    question = Question(f"gsm8k/test/{row}", "gsm8k", "2 + 3?", "5")
    return predictions.graded(
        question, "zero_shot_cot", text, log_prob=-0.25, num_tokens=6, finished=True
    )


def test_a_line_has_the_documented_fields():
    line = json.loads(prediction(7, "2 + 3 = 5\nThe answer is ５").to_line())
    assert line == {
        "id": "gsm8k/test/7",
        "benchmark": "gsm8k",
        "prompt": "zero_shot_cot",
        "sample_id": 0,
        "question": "2 + 3?",
        "gold": "5",
        "text": "2 + 3 = 5\nThe answer is ５",
        "extracted": line["extracted"],
        "correct": line["correct"],
        "log_prob": -0.25,
        "num_tokens": 6,
        "finished": True,
    }
    assert line["extracted"]["last_number"] == "5" and line["correct"]["last_number"] is True


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "p.jsonl"
    batch = [prediction(0), prediction(1, "none\u2028here")]
    with predictions.PredictionWriter(path) as writer:
        writer.append(batch[:1])
        writer.append(batch[1:])
        assert list(writer.done) == [("gsm8k/test/0", 0), ("gsm8k/test/1", 0)]
        assert predictions.read(path) == batch  # on disk before the file is closed


def test_a_torn_last_line_is_dropped_and_written_again(tmp_path):
    path = tmp_path / "p.jsonl"
    whole = prediction(0).to_line()
    for cut in (1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole + prediction(1).to_line()[:cut])
        assert predictions.read(path) == [prediction(0)]
        with predictions.PredictionWriter(path) as writer:
            assert list(writer.done) == [("gsm8k/test/0", 0)]
            writer.append([prediction(1)])
        assert path.read_bytes() == whole + prediction(1).to_line()


def test_a_last_line_that_is_whole_but_for_its_end_is_kept(tmp_path):
    path = tmp_path / "p.jsonl"
    both = prediction(0).to_line() + prediction(1).to_line()
    path.write_bytes(both.removesuffix(b"\n"))
    assert predictions.read(path) == [prediction(0), prediction(1)]
    with predictions.PredictionWriter(path) as writer:
        writer.append([prediction(2)])
    assert path.read_bytes() == both + prediction(2).to_line()


def test_byte_order_marks_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + prediction(0).to_line() + b"\n \r\n" + prediction(1).to_line()
    )
    assert predictions.read(path) == [prediction(0), prediction(1)]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"<html>Sign in</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "LFS pointer"),
        (b"PK\x03\x04", "zip"),
        (prediction(0).to_line().decode().encode("utf-16"), "line 1 is not valid JSON"),
        ((prediction(0).to_line() * 2).replace(b"\n", b"\r"), "line 1 is not valid JSON"),
    ],
)
def test_a_file_of_another_kind_is_named_and_left_as_it_is(tmp_path, content, named):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    for open_ in (predictions.read, predictions.PredictionWriter):
        with pytest.raises(ValueError, match=named):
            open_(path)
    assert path.read_bytes() == content


def test_a_full_disk_loses_nothing_that_was_written(tmp_path):
    path = tmp_path / "p.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with predictions.PredictionWriter(path) as writer:
        writer.append([prediction(0)])
        before = path.read_bytes()
        # The write of the second batch gets half of its bytes out, as on a disk that fills up.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * 3 // 2, hard))
        try:
            with pytest.raises(
                OSError, match=r"Its 1 predictions are kept; make room and run"
            ) as got:
                writer.append([prediction(1)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert got.value.errno
        assert path.read_bytes() == before
        writer.append([prediction(1)])
    assert predictions.read(path) == [prediction(0), prediction(1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"oops\n", "line 2 is not valid JSON"),
        (b"oops", "line 2 is not valid JSON"),
        (b'{"id": "a"}\n', r"line 2: expected the fields \['benchmark', .*got \['id'\]"),
        (b"3\n", "line 2: expected the fields .*got 3"),
        (prediction(0).to_line(), r"line 2: gsm8k/test/0 \(sample 0\) was already answered above"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(prediction(0).to_line() + line)
    with pytest.raises(ValueError, match=message):
        predictions.PredictionWriter(path)
    assert path.read_bytes().endswith(line)


def test_a_complete_file_is_sorted(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"".join(prediction(row).to_line() for row in (2, 0, 1)))
    ids = [f"gsm8k/test/{row}" for row in range(3)]
    assert [p.id for p in predictions.sort_file(path, ids)] == ids
    assert [p.id for p in predictions.read(path)] == ids
    with pytest.raises(KeyError, match="gsm8k/test/2"):
        predictions.sort_file(path, ids[:2])


def test_a_disk_that_is_full_when_the_file_is_sorted_loses_nothing(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"".join(prediction(row).to_line() for row in (1, 0)))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * 3 // 4, hard))
    try:
        with pytest.raises(OSError, match=r"order of its questions: .* Its 2 predictions are kept"):
            predictions.sort_file(path, ["gsm8k/test/0", "gsm8k/test/1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_regrading_uses_the_saved_text():
    stale = dataclasses.replace(prediction(0), extracted={}, correct={})
    assert predictions.regraded(stale) == prediction(0)
