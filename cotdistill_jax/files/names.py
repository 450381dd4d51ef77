"""What a user's path means: a name before it is a pattern, and `~` is the home folder."""

import glob
import os
import pathlib
import re

# Where a path can begin in an argument: `--flag=~/x`, `--gin.NAME="~/x"`, `--prompt=file:~/x`, the argument itself, and behind a
# comma, as some flags take lists. Without a slash behind it, `~name` may be any text.
_HOME = re.compile(
    r"""(?P<before>^(?:--?[\w./@-]+\s*=\s*)?["']?(?:file:)?|,(?:file:)?)(?P<home>~(?=/|$|["',])|~[\w.-]+(?=/))"""
)


def is_name(path: str) -> bool:
    """Returns whether a path is to be taken as it is written: it exists, or holds no character of a pattern.

    Example: `runs/sweep[1]` is a name where such a folder exists, and a pattern for `runs/sweep1` where it does not.
    """
    return not glob.has_magic(path) or os.path.exists(path)


def matches(pattern: str) -> list[str]:
    """Returns the existing paths that a pattern names, in no order; a part of it that exists is a name, whatever it holds.

    Example: `sweep[1]/checkpoint_*` names what lies in `sweep[1]` where such a folder exists, and in `sweep1` where it does not.
    """
    found = [""]
    for part in pathlib.PurePath(pattern).parts:
        found = [path for folder in found for path in _matches_in(folder, part)]
    return found


def _matches_in(folder: str, part: str) -> list[str]:
    path = os.path.join(folder, part)
    return [path] if os.path.exists(path) else glob.glob(os.path.join(glob.escape(folder), part))


def expand_home(argument: str) -> str:
    """Returns a command's argument with the home folder for a `~`, or a user's for `~user/`, where a path in its value begins.

    Shells do so for `--flag ~/x` and not for `--flag=~/x`. Example: `--gin.MODEL_DIR="~/runs/a"` becomes `--gin.MODEL_DIR="/home/me/runs/a"`.

    Raises:
        ValueError: there is no such home folder.
    """
    return _HOME.sub(lambda found: found["before"] + _home(found["home"], argument), argument)


def _home(name: str, argument: str) -> str:
    home = os.path.expanduser(name)
    if home == name:
        raise ValueError(
            f"{argument}: there is no home folder {name}; write the whole path, or ./{name} for a folder of that name"
        )
    return home


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
