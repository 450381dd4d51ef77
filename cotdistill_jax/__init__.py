"""Distil chain-of-thought reasoning from a teacher's text and top-k probabilities into FlanT5, on JAX."""

__version__ = "0.1.0"


def gin_search_path() -> str:
    """Returns the folder in which `gin/experiments/...` lies: the checkout, or this package where it was installed.

    T5X asks for it: `--gin_search_paths=$(python -c "import cotdistill_jax; print(cotdistill_jax.gin_search_path())")`.
    """
    import pathlib

    package = pathlib.Path(__file__).parent
    installed = (package / "gin" / "defaults.gin").is_file()
    return str(package if installed else package.parent)


def _have_a_home() -> None:
    """Names `/` as the home folder of a user without one, as containers do, where libraries would make a folder called `~`."""
    import os

    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def _keep_compiled_code_somewhere() -> None:
    """Names a folder for Numba's compiled code where neither the code's own folder nor the user's home can be written.

    So it is for another user than the one who installed, and in containers. Numba refuses to import such code otherwise.
    """
    import os
    import pathlib
    import tempfile

    if "NUMBA_CACHE_DIR" in os.environ:
        return
    beside = pathlib.Path(__file__).parent / "__pycache__"
    at_home = pathlib.Path(os.path.expanduser("~/.cache/numba"))
    for place in (beside, at_home):
        existing = next(path for path in (place, *place.parents) if path.exists())
        if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            return
    folder = pathlib.Path(tempfile.gettempdir(), f"cotdistill_jax-numba-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # somebody else's code must not be loaded
        folder = pathlib.Path(tempfile.mkdtemp(prefix="cotdistill_jax-numba-"))
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


_have_a_home()
_keep_compiled_code_somewhere()
