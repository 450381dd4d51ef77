"""A file of lines as it is read while it grows: in a bucket, the object and the parts behind it (see `writing.LineFile`)."""

import pathlib

from cotdistill_jax.files.buckets import BucketPath
from cotdistill_jax.files.paths import Path

_SUFFIX = ".parts"


def read(path: Path) -> bytes | None:
    """Returns the content of a file of lines, parts included; None where there is none."""
    if isinstance(path, pathlib.Path):
        return path.read_bytes() if path.exists() else None
    # The parts are listed before the file is read: those that it takes in meanwhile are in it.
    parts = sorted(path.with_name(path.name + _SUFFIX).iterdir())
    content = path.read_bytes() if path.is_file() else None
    for found in parts:
        start = int(found.name)
        if start == len(content or b"") and found.is_file():
            content = (content or b"") + found.read_bytes()
    return content


def part(path: BucketPath, start: int) -> BucketPath:
    """Returns the object that holds what begins at byte `start` of a file."""
    return path.with_name(path.name + _SUFFIX) / f"{start:015d}"


def consolidate(path: BucketPath, content: bytes | None) -> None:
    """Writes a file with all its parts, `content`, and removes them; safe against interruption at any point."""
    parts = list(path.with_name(path.name + _SUFFIX).iterdir())
    if parts and content is not None:
        path.write_bytes(content)
    for found in parts:
        found.unlink()
