"""Decode transcripts written as the seed's scripts write them, and read back; cut off, repeated and edited ones."""

import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest

from cotdistill_jax.teacher import seed_transcripts
from cotdistill_jax.teacher.seed_text import SeedFileError

TAIL = [("\n", 1.0)]
AWKWARD = [
    "'",
    '"',
    "'\"",
    "<<",
    ">>",
    "|||",
    " ||| ",
    "\n",
    "\\",
    "\\n",
    "'>> 0.5 <<'",
    "\t",
    "é",
    "😀",
    "\u2028",
    "'<<'",
    "\r",
]
STEPS = [
    [(" step", 1.0), ("!", 0.0)],
    [("\n", 0.9862), (".", 0.009)],
    *([(token, 0.5), *((other, 0.0) for other in AWKWARD)] for token in AWKWARD),
    [("The", 0.75)],
    [(" answer", 1.0)],
    [(" is", 1.0)],
    [(" 2", 0.0415), (" 3", 0.9)],
    TAIL,
    TAIL,
]


def write_steps(steps, end="||| "):
    """One line, as the decode scripts format it."""
    rows = ("".join(f"<<{token!r}>> {prob:.4f} " for token, prob in step) + end for step in steps)
    return "Per-step decode: " + "".join(rows) + "\n"


def block(number, samples, question="What is 1 + 1?"):
    """A question and its (text, steps) samples."""
    parts = [f"Question {number}: {question}\nAnswer: 1+1=<<1+1=2>>2\nso 2\n#### 2\n"]
    parts += [
        f"Model output {j}: {text}\n{write_steps(steps)}" for j, (text, steps) in enumerate(samples)
    ]
    return "".join(parts) + "\n\n\n\n"


def text_of(steps):
    return "\n" + "".join(step[0][0] for step in steps[2:-2])


def read(tmp_path: pathlib.Path, content: str, flavour="codex", **options):
    path = tmp_path / "train_codex_complex_total.txt"
    path.write_text(content, encoding="utf-8", newline="")
    transcript = seed_transcripts.open_transcript(path, flavour, **options)
    return [record for records in transcript for record in records], transcript


def test_every_token_survives(tmp_path):
    records, transcript = read(
        tmp_path, block(0, [(text_of(STEPS), STEPS)] * 2) + block(7, [(text_of(STEPS), STEPS)])
    )
    assert [record.key for record in records] == [
        ("gsm8k/train/0", 0),
        ("gsm8k/train/0", 1),
        ("gsm8k/train/7", 0),
    ]
    for record in records:
        assert [list(row) for row in record.top_k] == STEPS
        assert record.text == "".join(record.tokens[2:-2]).strip()
        assert (record.question, record.gold, record.label) == ("What is 1 + 1?", "2", None)
    assert not transcript.repaired and not transcript.dropped


@hypothesis.given(
    st.lists(st.lists(st.tuples(st.text(), st.integers(0, 10_000)), min_size=1), min_size=1)
)
def test_any_token_survives(drawn):
    steps = [tuple((token, steps / 10_000) for token, steps in step) for step in drawn]
    line = write_steps(steps).removeprefix("Per-step decode: ")
    hypothesis.assume("\ud800" not in line)
    assert seed_transcripts.parse_steps(line, "here") == steps
    assert seed_transcripts.parse_steps(line.replace("||| ", " ||| "), "here") == steps


def test_flan_flavour(tmp_path):
    steps = [
        [("▁It", 0.5), ("▁So", 0.25)],
        [("▁is", 1.0)],
        [("▁2", 0.5)],
        [("</s>", 1.0)],
        [("<pad>", 1.0)],
    ]
    content = (
        "Question 0: a\nAnswer: b\n#### 2\nModel output 0: <pad> It is 2</s><pad>\n"
        + write_steps(steps, " ||| ")
    )
    record = read(tmp_path, content + "\n\n\n\n", "flan")[0][0]
    assert record.text == "It is 2"
    assert record.tokens == (" It", " is", " 2")
    assert record.top_k[0] == ((" It", 0.5), (" So", 0.25))
    assert record.teacher == "google/flan-t5-xxl"


def test_lines_of_a_text_are_not_taken_for_parts(tmp_path):
    text = "\nAnswer: a\nModel output 9: b\nQuestion 5: of the teacher's own\nPer-step decode\nThe answer is 2"
    records, _ = read(tmp_path, block(0, [(text, STEPS)]) + block(1, [(text_of(STEPS), STEPS)]))
    assert records[0].text == "Answer: a\nModel output 9: b"
    assert records[1].question_id == "gsm8k/train/1"


def test_what_the_teacher_goes_on_with_is_left_out_and_counted(tmp_path):
    more = [*STEPS, [("Question", 1.0)], [(":", 1.0)], [(" Is", 1.0)]]
    records, transcript = read(
        tmp_path, block(0, [(text_of(STEPS), more), (text_of(STEPS), STEPS)])
    )
    assert [list(row) for row in records[0].top_k] == STEPS
    assert transcript.repaired == {"continued_after_answer": 1}


def test_a_question_that_was_asked_again_is_repaired_and_counted(tmp_path):
    begun = "Question 1: What is 1 + 1?\nAnswer: so\n#### 2\n"
    content = (
        block(0, [("\na", STEPS)]) + begun + block(1, [("\nb", STEPS)]) + block(1, [("\nc", STEPS)])
    )
    records, transcript = read(tmp_path, content)
    assert [(record.key, record.text) for record in records] == [
        (("gsm8k/train/0", 0), "a"),
        (("gsm8k/train/1", 0), "b"),
        (("gsm8k/train/1", 1), "c"),
    ]
    assert transcript.repaired == {"repeated_question": 2}


def test_another_text_under_the_same_number_is_an_error(tmp_path):
    with pytest.raises(
        SeedFileError, match="question 0 was 'What is 1 \\+ 1\\?' before and is 'Other'"
    ):
        read(tmp_path, block(0, [("\na", STEPS)]) + block(0, [("\na", STEPS)], "Other"))


def test_every_cut_is_an_error_or_loses_only_the_last_sample(tmp_path):
    whole = block(0, [("\na", STEPS[:3]), ("\nb", STEPS[:3])]) + block(1, [("\nc", STEPS[:3])])
    ends = whole.rstrip("\n")
    for size in range(1, len(ends)):
        if ends[:size].rstrip("\n").endswith(write_steps(STEPS[:3])[:-1]):
            continue  # whole samples
        with pytest.raises(SeedFileError, match=r"total\.txt line \d+"):
            read(tmp_path, ends[:size])
    for size in (len(ends) - 5, len(ends) - 300):
        records, transcript = read(tmp_path, ends[:size], keep_whole=True)
        assert len(records) == 2 and transcript.dropped in ({"cut_off_sample": 1}, {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.0415", "0.04x5", r"line 13, question 0, sample 0, step 22: expected .* got "),
        ("<<' 2'>>", "<<' 2>>", "step 22"),
        ("||| <<' 2'", "||| ||| <<' 2'", "step 22"),
        ("Question 0: ", "Problem 0: ", r"line 1: expected 'Question <number>: ...', got 'Problem"),
        ("#### 2", "2", "#### <number>"),
    ],
)
def test_edited_files_name_line_and_step(tmp_path, old, new, message):
    text = "\nIt\nis\n2\n2\n2\n2\n2"
    content = block(0, [(text, STEPS)])
    assert content.count(old) == 1
    with pytest.raises(SeedFileError, match=message):
        read(tmp_path, content.replace(old, new))


def test_text_after_a_sample_is_an_error(tmp_path):
    with pytest.raises(
        SeedFileError,
        match=r"expected 'Model output <number>: ' or 'Question <number>: ', got 'stray",
    ):
        read(tmp_path, block(0, [("\na", STEPS)]) + "stray\n")


def test_empty_missing_and_unknown(tmp_path):
    with pytest.raises(SeedFileError, match="is empty"):
        read(tmp_path, "")
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        seed_transcripts.open_transcript(tmp_path / "none.txt", "codex")
    with pytest.raises(KeyError, match=r"unknown flavour 'gpt'.*\['codex', 'flan'\]"):
        read(tmp_path, block(0, []), "gpt")


def test_reports_the_bytes_that_were_read(tmp_path):
    content, seen = block(0, [("\nä", STEPS)]), []
    read(tmp_path, content, read=seen.append)
    assert sum(seen) == len(content.encode())


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_windows_lines_and_a_byte_order_mark_read_as_without(tmp_path, mark):
    content = block(0, [(text_of(STEPS), STEPS)] * 2) + block(7, [("\n\nSo.\n\nIt is 2\n", [TAIL])])
    content = content.replace("\r", "")
    expected, _ = read(tmp_path, content)
    assert read(tmp_path, mark + content.replace("\n", "\r\n"))[0] == expected


def test_a_carriage_return_of_the_teacher_stays(tmp_path):
    (record,), _ = read(tmp_path, block(0, [("\nIt\r\nis 2\n", [TAIL])]))
    assert record.text == "It\r\nis 2"


@pytest.mark.parametrize("doubled", [False, True])
def test_blocks_that_end_their_lines_in_different_ways_read_alike(tmp_path, doubled):
    blocks = [block(n, [("\n\nSo.\n\nIt is 2\n", [TAIL])], "Two\nlines?") for n in range(4)]
    expected, _ = read(tmp_path, "".join(blocks))
    end = "\r\r\n" if doubled else "\r\n"
    for on_windows in ([0], [1, 2], [3], [0, 2]):
        parts = [b.replace("\n", end) if n in on_windows else b for n, b in enumerate(blocks)]
        assert read(tmp_path, "\n" + "".join(parts))[0] == expected


def test_a_carriage_return_of_the_teacher_stays_where_line_ends_were_converted(tmp_path):
    content = block(0, [("\nIt\r\nis 2\n", [TAIL])]).replace("\n", "\r\n")
    (record,), _ = read(tmp_path, content)
    assert record.text == "It\r\nis 2"


def test_lines_of_old_macs_and_other_encodings_are_named(tmp_path):
    with pytest.raises(SeedFileError, match="line 1: the lines end with CR alone"):
        read(tmp_path, block(0, [("\nIt is 2\n", [TAIL])]).replace("\n", "\r"))
    for encoding, byte in (("utf-16", "0xff"), ("latin-1", "0xe9")):
        path = tmp_path / f"{encoding}.txt"
        path.write_bytes(block(0, [("\nIt is 2 é\n", [TAIL])]).encode(encoding))
        with pytest.raises(SeedFileError, match=rf"is not UTF-8 \(byte {byte}\)"):
            list(seed_transcripts.open_transcript(path, "codex"))
