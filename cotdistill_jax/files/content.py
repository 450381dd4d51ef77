"""What a file really holds: a Git LFS pointer, a web page or an archive has the right name and the wrong content.

Downloads go wrong in few ways, and each leaves a small file under the name of the real one. Whoever reads a file asks here first, so
that the error names what lies there instead of what a parser made of it. Text may begin with a byte order mark (editors on Windows write
one), and JSON Lines may have blank lines; both are passed over. JSON may hold halves of surrogate pairs, which no file in UTF-8 can:
they become U+FFFD, and a warning says so.
"""

import io
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

from cotdistill_jax.files import lines
from cotdistill_jax.files.buckets import BucketPath
from cotdistill_jax.files.paths import AnyPath, as_path

_HEAD_BYTES = 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")
_MARKUP = (*_PAGE, b"<!doctype", b"<?xml", b"<!--")
_ARCHIVES = {
    b"\x1f\x8b": "gzip data; unpack it first (gunzip)",
    b"BZh": "bzip2 data; unpack it first (bunzip2)",
    b"\xfd7zXZ\x00": "xz data; unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "zstd data; unpack it first (unzstd)",
    b"PK\x03\x04": "a zip archive; unpack it first (unzip)",
}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class ForeignFileError(ValueError):
    """A file that holds something else than its name promises; the message names file, content and fix."""


def read_head(path: AnyPath, size: int) -> bytes:
    """Returns the first `size` bytes of a file, or all where there are fewer."""
    path = as_path(path)
    if isinstance(path, BucketPath):
        return path.read_head(size)
    with path.open("rb") as file:
        return file.read(size)


def foreign_content(
    path: AnyPath, *, markup: bool = False, archive: str | None = None
) -> str | None:
    """Returns what a file holds instead of data, with what to do about it; None where nothing speaks against it.

    Args:
        path: existing file; its first KiB is read.
        markup: the file may begin with `<`, as XML does; HTML is still none.
        archive: name of the one archive form that is right here, such as "zip" (PyTorch's files since 1.6) or "gzip".

    Example: `foreign_content("spiece.model")` of a repository cloned without LFS returns "a Git LFS pointer (of 791,656 bytes); ...".
    """
    return _foreign_head(read_head(path, _HEAD_BYTES), markup, archive)


def _foreign_head(head: bytes, markup: bool, archive: str | None) -> str | None:
    if not head:
        return "nothing (0 bytes); fetch it again"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        size = next((line[5:] for line in head.splitlines() if line.startswith(b"size ")), b"")
        of = f" (of {int(size):,} bytes)" if size.isdigit() else ""
        return f"a Git LFS pointer{of}; run `git lfs pull` where it was cloned, or download the file itself"
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic) and not (archive and f" {archive} " in f" {name}"):
            return name
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip().lower()
    if text.startswith(_PAGE if markup else _MARKUP):
        return "a web page (HTML), such as a login or an error page; download the file itself"
    return None


def refuse_foreign_content(
    path: AnyPath,
    stage: str,
    expected: str,
    *,
    markup: bool = False,
    archive: str | None = None,
) -> None:
    """Raises `ForeignFileError` where a file holds something else than data; see `foreign_content`.

    Args:
        path: existing file.
        stage: first word of the message.
        expected: what the file should hold, such as "a SentencePiece model".
        markup: as in `foreign_content`.
        archive: as in `foreign_content`.
    """
    _refuse(foreign_content(path, markup=markup, archive=archive), path, stage, expected)


def _refuse(found: str | None, path: AnyPath, stage: str, expected: str) -> None:
    if found:
        what, _, fix = found.partition("; ")
        raise ForeignFileError(f"{stage}: {path} holds {what}, expected {expected}. Fix: {fix}.")


def read_text(
    path: AnyPath,
    stage: str,
    expected: str = "text in UTF-8",
    *,
    markup: bool = True,
) -> str:
    """Returns the text of a UTF-8 file without a byte order mark; arguments as for `refuse_foreign_content`.

    Raises:
        ForeignFileError: LFS pointer, web page, archive, or bytes that are no UTF-8.
    """
    refuse_foreign_content(path, stage, expected, markup=markup)
    try:
        return as_path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ForeignFileError(
            f"{stage}: {path} is not UTF-8 (byte {error.start}: {error.object[error.start]:#04x}). Save it as UTF-8."
        ) from error


def read_json(path: AnyPath, stage: str) -> Any:
    """Returns the parsed content of one JSON file.

    Raises:
        ForeignFileError: LFS pointer, web page, archive, or no JSON; the message names the file.
    """
    text = read_text(path, stage, "JSON", markup=False)
    try:
        return _parse(text, f"{stage}: {path}")
    except json.JSONDecodeError as error:
        raise ForeignFileError(f"{stage}: {path} is not valid JSON in UTF-8: {error}") from error


def read_json_lines(
    path: AnyPath, stage: str, *, growing: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yields (1-based line number, parsed value) of every line of a JSON Lines file that is not blank.

    Args:
        path: of the file, in UTF-8.
        stage: first word of the messages.
        growing: the file is one of ours that may still be written: it may be empty, and an object that is cut off at its end is left out.

    Raises:
        ForeignFileError: LFS pointer, web page, archive, or a line that is no JSON; the message names file and line.
    """
    path = as_path(path)
    # One of ours may have parts behind it (`lines`), and is small enough to be read whole.
    content = lines.read(path) if growing else None
    if growing and content is None:
        raise FileNotFoundError(2, "No such file or directory", str(path))
    stream = path.open("rb") if content is None else io.BytesIO(content)
    with stream:
        head = stream.read(_HEAD_BYTES)
        if not growing or head:
            _refuse(_foreign_head(head, False, None), path, stage, "JSON Lines")
        stream.seek(0)
        for number, line in enumerate(stream, start=1):
            content = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if not content.strip():
                continue
            try:
                value = _parse(content.decode("utf-8"), f"{stage}: {path} line {number}")
            except ValueError as error:
                if growing and _is_cut_off(content, error):
                    return
                raise ForeignFileError(
                    f"{stage}: {path} line {number} is not valid JSON in UTF-8: {error}; got {content[:80]!r}"
                ) from error
            yield number, value


def _is_cut_off(line: bytes, error: ValueError) -> bool:
    """Returns whether a line that is no JSON is the beginning of an object."""
    several = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
    return line.startswith(b"{") and not line.endswith(b"\n") and not several


def whole_characters(text: str) -> str:
    """Returns `text` with U+FFFD for halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parse(text: str, where: str) -> Any:
    """Returns the value of a JSON text, in whole characters; `where` begins the warning of halves."""
    value = json.loads(text)
    if not _SURROGATE.search(text):
        return value
    whole = _with_whole_characters(value)
    if whole != value:
        warnings.warn(
            f"{where}: halves of surrogate pairs, which are no characters, are read as U+FFFD.",
            stacklevel=3,
        )
    return whole


def _with_whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [_with_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {
            whole_characters(name): _with_whole_characters(item) for name, item in value.items()
        }
    return value
