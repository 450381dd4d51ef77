"""What a user's path is: a place on this machine, or in a bucket. Nobody else decides it.

Whatever a flag, a gin file or a manifest names goes through `as_path`, and is then used with the methods that `pathlib.Path` and `BucketPath`
share; what a library can only do on this machine takes `local_path`, which refuses a bucket by name.
"""

import os
import pathlib
import re
import shutil
from typing import Any, TypeAlias

from cotdistill_jax.files import names
from cotdistill_jax.files.buckets import BucketPath, SchemeError, is_url

Path: TypeAlias = pathlib.Path | BucketPath
AnyPath: TypeAlias = str | os.PathLike[str] | BucketPath
_HALF_A_URL = re.compile(r"^(?:gs|s3|https?|hf|az|file):/(?!/)")


def as_path(path: AnyPath) -> Path:
    """Returns a path of this machine, `~` replaced, or of a bucket.

    Raises:
        SchemeError: a URL of another kind, or one that lost a slash.
    """
    if isinstance(path, BucketPath):
        return path
    text = names.expand_home(os.fspath(path))
    if is_url(text):
        return BucketPath(text)
    if _HALF_A_URL.match(text):
        raise SchemeError(
            f"files: {text!r} is neither a URL nor a path that anybody means; write it with two slashes, as gs://BUCKET/..."
        )
    return pathlib.Path(text)


def local_path(path: AnyPath, stage: str, what: str) -> pathlib.Path:
    """Returns a path of this machine.

    Args:
        path: of a user.
        stage: first word of the message.
        what: what lies there, such as "the lists of a pickle".

    Raises:
        SchemeError: it is in a bucket.
    """
    found = as_path(path)
    if isinstance(found, BucketPath):
        raise SchemeError(
            f"{stage}: {what} can't be in a bucket ({found}); give a folder of this machine and copy it there afterwards"
        )
    return found


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """Returns what lies directly in a folder, or below it where the pattern has slashes, and matches; sorted.

    Args:
        folder: that exists.
        pattern: as `glob` takes it, parts between slashes; characters of the folder's own name are none of a pattern.
    """
    return sorted(folder.glob(pattern), key=str)


def remove_tree(folder: Path) -> None:
    """Removes a folder with all that is in it."""
    if isinstance(folder, BucketPath):
        folder.remove_tree()
    else:
        shutil.rmtree(folder)


def name_below(path: Path, folder: Path) -> str:
    """Returns the path of what lies below a folder, without the folder, parts between slashes."""
    if path.parts[: len(folder.parts)] != folder.parts:
        raise ValueError(f"files: {path} does not lie below {folder}")
    return "/".join(path.parts[len(folder.parts) :])


def is_remote(path: Any) -> bool:
    """Returns whether a path is in a bucket."""
    return isinstance(path, BucketPath) or is_url(path)
