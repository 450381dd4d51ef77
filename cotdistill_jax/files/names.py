"""`~` is the home folder, wherever a path begins in an argument."""

import os
import re

# Where a path can begin in an argument: `--flag=~/x`, `--gin.NAME="~/x"`, `--prompt=file:~/x`, the argument itself, and behind a
# comma, as some flags take lists. Without a slash behind it, `~name` may be any text.
_HOME = re.compile(
    r"""(?P<before>^(?:--?[\w./@-]+\s*=\s*)?["']?(?:file:)?|,(?:file:)?)(?P<home>~(?=/|$|["',])|~[\w.-]+(?=/))"""
)


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
