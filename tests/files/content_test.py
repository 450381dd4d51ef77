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
    path.write_bytes(b"<!DOCTYPE html>")
    assert "web page" in files.foreign_content(path, markup=True)


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


def test_a_file_that_grows_may_be_empty_or_end_inside_an_object_and_nothing_else(tmp_path):
    path = tmp_path / "file.jsonl"
    for content, found in ((b"", []), (b'{"a": 1}\n\n{"b', [1]), (b'{"a": 1}\n{"a": 2}', [1, 2])):
        path.write_bytes(content)
        read = files.read_json_lines(path, "stage", growing=True)
        assert [value["a"] for _, value in read] == found
    for content in (b'{"a": 1}\n{"b\n', b"oops", b'{"a": 1}\r{"a": 2}\r', POINTER, b"<html>"):
        path.write_bytes(content)
        with pytest.raises(files.ForeignFileError):
            list(files.read_json_lines(path, "stage", growing=True))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_lines_of_another_encoding_are_refused(tmp_path, encoding):
    path = tmp_path / "file.jsonl"
    path.write_bytes('{"a": "größe"}\n{"a": 2}\n'.encode(encoding))
    with pytest.raises(files.ForeignFileError, match="line 1 is not valid JSON in UTF-8"):
        list(files.read_json_lines(path, "stage"))


def test_halves_of_surrogate_pairs_are_replaced_and_said(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(r'{"\ud83d": ["a\uDE00", "\ud83d\ude00", {"b": "\\ud83d"}, null]}')
    whole = {"\ufffd": ["a\ufffd", "\U0001f600", {"b": r"\ud83d"}, None]}
    with pytest.warns(UserWarning, match=r"stage: .*file\.json: halves of surrogate pairs"):
        assert files.read_json(path, "stage") == whole
    with pytest.warns(UserWarning, match=r"stage: .*file\.json line 1: halves"):
        assert list(files.read_json_lines(path, "stage")) == [(1, whole)]


def test_whole_pairs_are_read_without_a_word(tmp_path, recwarn):
    path = tmp_path / "file.json"
    path.write_text(r'["\ud83d\ude00"]')
    assert files.read_json(path, "stage") == ["\U0001f600"]
    assert not recwarn.list
