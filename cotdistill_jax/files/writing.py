"""Files that are there whole or not at all, and files that grow by lines; both on this machine and in buckets."""

import hashlib
import json
import os
import pathlib
from typing import Any, Self

from cotdistill_jax.files import lines
from cotdistill_jax.files.buckets import BucketPath
from cotdistill_jax.files.paths import AnyPath, as_path

_TEMPORARY_SUFFIX = ".partial"
_MOST_PARTS = 64


def file_sha256(path: AnyPath) -> str:
    """Returns the SHA-256 checksum of a file as 64 hexadecimal digits."""
    with as_path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # a file


def write_atomically(path: AnyPath, content: bytes | str) -> None:
    """Replaces a file; a reader sees the old or the new one, never a part, also after a power cut.

    Raises:
        OSError: it can't be written; the file is as it was.
    """
    path = as_path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    if isinstance(path, BucketPath):
        path.write_bytes(data)
        return
    temporary = path.with_name(path.name + _TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomically(path: AnyPath, value: Any) -> None:
    """Replaces a file by the JSON text of `value`, see `write_atomically`."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    write_atomically(path, f"{text}\n")


class LineFile:
    """Appends lines to a file; use as a context manager. What is appended is kept when `append` returns.

    Objects of a bucket can't grow. There every append is an object of its own in the folder `NAME.parts` beside the file, named by where it
    begins in the file, and now and then, and at the end, the file is written anew with all of them. `lines.read` sees both.
    """

    def __init__(self, path: AnyPath, *, end_last_line: bool = True) -> None:
        """Opens a file, made where missing; a torn last line is removed.

        Args:
            path: of JSON Lines.
            end_last_line: whether a last line that is JSON and lacks only its end, as an editor leaves it, gets it; else it is torn, too.
        """
        self.path = as_path(path)
        content = lines.read(self.path)
        whole = _with_whole_lines(content or b"", end_last_line)
        self._parts = 0
        if isinstance(self.path, BucketPath):
            lines.consolidate(self.path, content)
            if whole != content:
                self.path.write_bytes(whole)
            self._content = bytearray(whole)
            return
        self._file = self.path.open("r+b" if content is not None else "w+b", buffering=0)
        self._replace_end(content or b"", whole)

    def append(self, content: bytes) -> None:
        """Adds whole lines.

        Raises:
            OSError: the disk is full or the like; the file is as it was.
        """
        if isinstance(self.path, BucketPath):
            lines.part(self.path, len(self._content)).write_bytes(content)
            self._content += content
            self._parts += 1
            if self._parts >= _MOST_PARTS:
                self._consolidate()
            return
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._write(content)
        except OSError:
            self._file.truncate(end)
            raise

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the file."""
        self.close()

    def close(self) -> None:
        """Makes one object of a file in a bucket; closes the file."""
        if isinstance(self.path, pathlib.Path):
            self._file.close()
        elif self._parts:
            self._consolidate()

    def _consolidate(self) -> None:
        assert isinstance(self.path, BucketPath)
        lines.consolidate(self.path, bytes(self._content))
        self._parts = 0

    def _replace_end(self, content: bytes, whole: bytes) -> None:
        same = min(len(content), len(whole))  # one begins with the other
        self._file.truncate(same)
        self._file.seek(same)
        self._write(whole[same:])

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        os.fsync(self._file.fileno())


def replace_lines(path: AnyPath, content: bytes) -> None:
    """Replaces a file of lines that no process is appending to."""
    path = as_path(path)
    if isinstance(path, BucketPath):
        # First all in one object: an interruption then never leaves parts behind a file that they do not continue.
        lines.consolidate(path, lines.read(path))
    write_atomically(path, content)


def _with_whole_lines(content: bytes, end_last_line: bool) -> bytes:
    """Returns the content up to its last whole line, where wanted with the end of a last line that is JSON and lacks it."""
    end = content.rfind(b"\n") + 1
    if not end_last_line:
        return content[:end]
    last = content[end:]
    try:
        json.loads(last)
    except ValueError:
        return content[:end]
    return content + b"\n"
