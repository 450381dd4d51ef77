"""What training and the inspection of mixtures say where T5's vocabulary is another file."""

import pytest

from cotdistill_jax import files
from cotdistill_jax.seqio_tasks import vocabularies


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\nsize 791656\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'{"version": "1.0"}', "not a SentencePiece model"),
    ],
)
def test_what_is_no_vocabulary_is_named(tmp_path, monkeypatch, content, named):
    path = tmp_path / "t5" / "spiece.model"
    path.parent.mkdir()
    path.write_bytes(content)
    monkeypatch.setenv("COTDISTILL_DATA_DIR", str(tmp_path))
    vocabulary = vocabularies._T5Vocabulary()
    with pytest.raises(files.ForeignFileError, match=named) as caught:
        vocabulary.encode("a")
    assert str(path) in str(caught.value)
