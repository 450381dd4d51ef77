"""What a user's path means: a name before it is a pattern, and `~` is the home folder."""

import glob
import os
import re

# Where a path can begin in an argument: `--flag=~/x`, `--gin.NAME="~/x"`, `--prompt=file:~/x`, or the argument itself.
_HOME = re.compile(r"""^((?:--?[\w.]+=)?["']?(?:file:)?)~(?=/|$|["'])""")


def is_name(path: str) -> bool:
    """Returns whether a path is to be taken as it is written: it exists, or holds no character of a pattern.

    Example: `runs/sweep[1]` is a name where such a folder exists, and a pattern for `runs/sweep1` where it does not.
    """
    return not glob.has_magic(path) or os.path.exists(path)


def expand_home(argument: str) -> str:
    """Returns a command's argument with the home folder for a `~` at the beginning of its value.

    Shells do so for `--flag ~/x` and not for `--flag=~/x`. Example: `--gin.MODEL_DIR="~/runs/a"` becomes `--gin.MODEL_DIR="/home/me/runs/a"`.

    Raises:
        ValueError: there is no home folder to put there.
    """
    found = _HOME.match(argument)
    if not found:
        return argument
    home = os.path.expanduser("~")
    if home == "~":
        raise ValueError(f"{argument}: HOME is not set, so `~` names nothing; write the whole path")
    return found[1] + home + argument[found.end() :]


def refuse_pattern(path: str, stage: str) -> None:
    """Raises ValueError for a path in which Orbax would see a pattern, and so lose the arrays that it has written.

    Args:
        path: of a run folder that is to be written.
        stage: first word of the message.
    """
    found = [char for char in "[]*?\\" if char in path] + ["a line break"] * ("\n" in path)
    if found:
        raise ValueError(
            f"{stage}: the run folder {path!r} holds {' and '.join(found)}, which checkpoints are not written to safely: Orbax reads such "
            "a path as a pattern. Choose a folder without them."
        )
