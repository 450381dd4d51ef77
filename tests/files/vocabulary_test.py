import gzip

import pytest

from cotdistill_jax import corpus, files


def test_a_vocabulary_is_opened():
    assert len(files.open_vocabulary(corpus.arith_vocabulary(), "stage")) > 100


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 791656\n",
            "Git LFS pointer",
        ),
        (b"<!DOCTYPE html><html>", "web page"),
        (gzip.compress(b"model", mtime=0), "gzip"),
        (b"", "nothing"),
        (b'{"version": "1.0", "model": {"type": "Unigram"}}', "is not a SentencePiece model"),
        (b"garbage" * 100, "is not a SentencePiece model"),
    ],
)
def test_what_is_no_vocabulary_is_named(tmp_path, content, named):
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    with pytest.raises(files.ForeignFileError, match=named) as caught:
        files.open_vocabulary(path, "stage")
    assert str(path) in str(caught.value)


def test_a_vocabulary_that_is_cut_off_is_named_wherever_it_ends(tmp_path):
    whole = corpus.arith_vocabulary().read_bytes()
    path, messages = tmp_path / "spiece.model", set()
    for size in [*range(1, 600), *range(6_900, 7_200), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(files.ForeignFileError) as caught:
            files.open_vocabulary(path, "stage")
        messages.add("it is cut off" in str(caught.value))
    assert messages == {True, False}, "SentencePiece opens some of them, and others not"


def test_a_missing_vocabulary_says_what_to_pass(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at .*Pass a SentencePiece model"):
        files.open_vocabulary(tmp_path / "spiece.model", "stage")
