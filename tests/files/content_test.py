import gzip
import json

import pytest

from cotdistill_jax import files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 791656\n"
CONTENTS = [
    (POINTER, "Git LFS pointer (of 791,656 bytes)"),
    (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    (b"\xef\xbb\xbf \n<HTML>404</HTML>", "web page"),
    (gzip.compress(b"{}", mtime=0), "gzip"),
    (b"PK\x03\x04rest", "zip archive"),
    (b"", "nothing (0 bytes)"),
]


@pytest.mark.parametrize(("content", "named"), CONTENTS)
def test_what_lies_there_instead_is_named(tmp_path, content, named):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert named in files.foreign_content(path)
    for read in (files.read_json, lambda *given: list(files.read_json_lines(*given))):
        with pytest.raises(files.ForeignFileError, match="stage: ") as caught:
            read(path, "stage")
        assert named in str(caught.value)
        assert str(path) in str(caught.value)


def test_the_archive_and_the_markup_that_belong_there_are_let_through(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"PK\x03\x04rest")
    assert files.foreign_content(path, archive="zip") is None
    path.write_bytes(b"<?xml version='1.0'?>")
    assert files.foreign_content(path, markup=True) is None


def test_byte_order_marks_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}\n\n')
    assert list(files.read_json_lines(path, "stage")) == [(1, {"a": 1}), (4, {"a": 2})]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"b": 3}).encode())
    assert files.read_json(path, "stage") == {"b": 3}
    assert files.read_text(path, "stage") == '{"b": 3}'


def test_a_broken_line_is_named_with_its_number(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(files.ForeignFileError, match="line 3 is not valid JSON"):
        list(files.read_json_lines(path, "stage"))


def test_text_of_another_encoding_is_named(tmp_path):
    path = tmp_path / "leaf.gin"
    path.write_bytes("größe".encode("latin-1"))
    with pytest.raises(files.ForeignFileError, match="not UTF-8"):
        files.read_text(path, "stage")
