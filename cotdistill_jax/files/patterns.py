"""A user's path is a name before it is a pattern; and what libraries would take for a pattern is refused."""

import glob
import os
import pathlib

from cotdistill_jax.files.buckets import BucketPath, is_url
from cotdistill_jax.files.paths import as_path


def is_name(path: str) -> bool:
    """Returns whether a path is to be taken as it is written: it exists, or holds no character of a pattern.

    Example: `runs/sweep[1]` is a name where such a folder exists, and a pattern for `runs/sweep1` where it does not.
    """
    return not glob.has_magic(path) or as_path(path).exists()


def matches(pattern: str) -> list[str]:
    """Returns the existing paths that a pattern names, in no order; a part of it that exists is a name, whatever it holds.

    Example: `sweep[1]/checkpoint_*` names what lies in `sweep[1]` where such a folder exists, and in `sweep1` where it does not.
    """
    if is_url(pattern):
        root, *parts = BucketPath(pattern).parts
        found = [root]
    else:
        found, parts = [""], list(pathlib.PurePath(pattern).parts)
    for part in parts:
        found = [path for folder in found for path in _matches_in(folder, part)]
    return found


def _matches_in(folder: str, part: str) -> list[str]:
    if is_url(folder):
        whole = BucketPath(folder)
        if not glob.has_magic(part) or (whole / part).exists():
            return [str(whole / part)]
        return [str(path) for path in whole.glob(part)]
    path = os.path.join(folder, part)
    return [path] if os.path.exists(path) else glob.glob(os.path.join(glob.escape(folder), part))


def refuse_pattern(path: str, stage: str, folder: str, reader: str) -> None:
    """Raises ValueError for a path in which a library would see a pattern, and so lose what is written there or read other files.

    Args:
        path: of the folder.
        stage: first word of the message.
        folder: what it is, such as "run folder".
        reader: the library.
    """
    found = [char for char in "[]*?\\" if char in path] + ["a line break"] * ("\n" in path)
    if found:
        raise ValueError(
            f"{stage}: the {folder} {path!r} holds {' and '.join(found)}: {reader} reads such a path as a pattern, and would lose or mix "
            "up files. Choose a folder without them."
        )
