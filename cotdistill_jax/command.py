"""How every command starts and ends: `~` in its arguments, and one line for a mistake of its user.

A mistake is what our code, or gin on behalf of a gin file, raises on purpose, and what the operating system says of a file. Everything
else is a fault of ours, or of a library, and keeps its traceback.
"""

import importlib
import linecache
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

from cotdistill_jax import files

_ROOT = pathlib.Path(__file__).parents[1]  # the checkout, or site-packages
_OURS = ("cotdistill_jax", "tasks", "scripts")
_INTERRUPTED = 130


def import_quietly(name: str) -> None:
    """Imports a package whose compiled code writes to standard error while it is imported, as TensorFlow does; a failure says it all.

    Args:
        name: of the package.
    """
    # No word about GPUs that TensorFlow does not find.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            importlib.import_module(name)
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def run(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
    """Calls a command's function and exits: 1 with one line on standard error for a user's mistake, 130 after Ctrl-C.

    Args:
        function: the command, such as `main`, or `absl.app.run` with the command as its argument.
        *arguments: of the function.
        **keywords: of the function.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows ASCII alone shows other characters as escapes.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.argv[1:] = map(files.expand_home, sys.argv[1:])
        for name, value in os.environ.items():
            if name.startswith("COTDISTILL_"):
                os.environ[name] = files.expand_home(value)
        function(*arguments, **keywords)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not is_mistake(error):
            raise
        sys.exit(in_one_line(error))


def stage(title: str, *arguments: str, folder: pathlib.Path) -> None:
    """Prints and runs `python ARGUMENTS` in a folder, and its time; ends the program with its exit status where that is not 0.

    Args:
        title: of this stage of a longer job.
        *arguments: of the interpreter.
        folder: where it runs.
    """
    print(f"\n== {title}\n$ python {shlex.join(arguments)}", flush=True)
    start = time.monotonic()
    finished = subprocess.run([sys.executable, *arguments], cwd=folder, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    print(f"({time.monotonic() - start:.0f} s)", flush=True)


def is_mistake(error: Exception) -> bool:
    """Returns whether an error is the user's to mend: raised on purpose by our code or by gin, or about a file or a bucket."""
    if isinstance(error, OSError) and error.filename is not None:
        return True
    if files.explain_foreign(error):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not isinstance(error, ValueError | KeyError | OSError | TypeError | NameError | SyntaxError):
        return False
    path = pathlib.Path(last.filename)
    if path.parent.name == "gin":
        return True
    ours = any(path.is_relative_to(_ROOT / folder) for folder in _OURS)
    line = linecache.getline(last.filename, last.lineno or 0)
    return ours and line.lstrip().startswith("raise")


def in_one_line(error: Exception) -> str:
    """Returns an error's message as one line: `FileNotFoundError(2, "No such file", "a")` gives "No such file: a"."""
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.strerror}: {error.filename}"
    elif isinstance(error, KeyError) and error.args:
        message = str(error.args[0])
    else:
        ours = isinstance(error, files.BucketError)
        message = str(error) if ours else files.explain_foreign(error) or str(error)
    return " ".join(message.split())
