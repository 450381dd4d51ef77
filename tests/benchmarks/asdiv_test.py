import pytest

from cotdistill_jax import benchmarks

PROBLEM = """<Problem ID="n-1"><Body>Two &amp; two.</Body><Question>How many? </Question>
<Answer>{answer}</Answer></Problem>"""


def write(folder, problems):
    (folder / "asdiv").mkdir()
    text = f"<Machine-Reading-Corpus-File><ProblemSet>{problems}</ProblemSet></Machine-Reading-Corpus-File>"
    (folder / "asdiv/ASDiv.xml").write_text(text)
    return folder


def test_reads_question_and_gold(tmp_path):
    write(tmp_path, PROBLEM.format(answer="4 (things)"))
    expected = benchmarks.Question("asdiv/test/0", "asdiv", "Two & two. How many?", "4 (things)")
    assert benchmarks.load("asdiv", data_dir=tmp_path) == [expected]


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        (
            PROBLEM.format(answer="4") + PROBLEM.format(answer=""),
            "ASDiv.xml record 1: field 'Answer' is empty",
        ),
        (
            "<Problem><Body>B</Body></Problem>",
            r"record 0: field 'Question' is missing; it has \['Body'\]",
        ),
        ("<Problem>", "ASDiv.xml is not valid XML"),
        ("", "asdiv split test is empty"),
    ],
)
def test_a_broken_file_is_named(tmp_path, problems, message):
    with pytest.raises(ValueError, match=message):
        benchmarks.load("asdiv", data_dir=write(tmp_path, problems))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("<!DOCTYPE html><html><p>Sign in</html>", "web page"),
        ("version https://git-lfs.github.com/spec/v1\nsize 5\n", "Git LFS pointer"),
        ("", "nothing"),
    ],
)
def test_what_lies_there_instead_is_named(tmp_path, content, named):
    (write(tmp_path, "") / "asdiv/ASDiv.xml").write_text(content)
    with pytest.raises(ValueError, match=rf"ASDiv.xml holds .*{named}"):
        benchmarks.load("asdiv", data_dir=tmp_path)


def test_a_byte_order_mark_and_windows_lines_read_as_without(tmp_path):
    path = write(tmp_path, PROBLEM.format(answer="4")) / "asdiv/ASDiv.xml"
    expected = benchmarks.load("asdiv", data_dir=tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert benchmarks.load("asdiv", data_dir=tmp_path) == expected
