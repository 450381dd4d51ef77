import pytest

from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import predictions, seed_transcripts

TRANSCRIPT = """\
Q: Two lines?
A: no, one question.
A_model:
3 - 1 = 2. The answer is 2</s>
A:
He has 3-1=<<3-1=2>>2.
#### 2

Q: How much?
A_model:
It is 1
A:
[39.0]

"""


def test_the_papers_files_are_read(tmp_path):
    path = tmp_path / "gsm8k_dev_iter_3000.txt"
    path.write_text(TRANSCRIPT)
    first, second = seed_transcripts.read(path, "gsm8k", "cot_4_cases")
    assert first.id == "gsm8k/transcript/0"
    assert first.question == "Two lines?\nA: no, one question."
    assert (first.text, first.finished) == ("3 - 1 = 2. The answer is 2", True)
    assert first.gold.endswith("#### 2") and first.correct["last_number"]
    assert (second.text, second.finished, second.gold) == ("It is 1", False, "[39.0]")
    assert not second.correct["last_number"]
    assert (second.log_prob, second.prompt) == (None, "cot_4_cases")


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text(TRANSCRIPT)
    found = seed_transcripts.read(path, "gsm8k", "p")
    seed_transcripts.write(tmp_path / "again.txt", found)
    assert (tmp_path / "again.txt").read_text() == TRANSCRIPT


def test_predictions_of_ours_are_written(tmp_path):
    question = Question("svamp/test/0", "svamp", "2 + 3?", "5")
    ours = predictions.graded(question, "p", "5", log_prob=-1.0, num_tokens=2, finished=True)
    seed_transcripts.write(tmp_path / "p.txt", [ours])
    assert (tmp_path / "p.txt").read_text() == "Q: 2 + 3?\nA_model:\n5</s>\nA:\n5\n\n"


def test_damage_is_named_by_its_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text(TRANSCRIPT[:-20])
    with pytest.raises(ValueError, match=r"line 9: expected a block .*got 'Q: How much\?"):
        seed_transcripts.read(path, "gsm8k", "p")


@pytest.mark.parametrize("end", ["\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_of_other_systems_and_a_byte_order_mark_read_as_without(tmp_path, end, mark):
    (tmp_path / "as_written.txt").write_text(TRANSCRIPT)
    (tmp_path / "other.txt").write_bytes((mark + TRANSCRIPT.replace("\n", end)).encode())
    expected, found = (
        seed_transcripts.read(tmp_path / name, "gsm8k", "p")
        for name in ("as_written.txt", "other.txt")
    )
    assert found == expected


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"<html>Sign in</html>", "web page"),
        (TRANSCRIPT.encode("utf-16"), "not UTF-8"),
        (b"", "0 bytes"),
    ],
)
def test_what_is_no_transcript_is_named(tmp_path, content, named):
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=named):
        seed_transcripts.read(path, "gsm8k", "p")
