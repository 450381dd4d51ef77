"""Gin files and bindings from a command line, as T5X reads them.

--gin_file=FILE ...            parsed in order; later bindings win
--gin_search_paths=DIR,DIR     where files and their includes are looked for, before the project's own (default: .)
--gin.NAME=VALUE               one binding after all files
"""

import contextlib
import difflib
import importlib.util  # noqa: F401  (gin 0.5.0 uses it without importing it)
import io
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence

import gin
from gin import config_parser

import cotdistill_jax
from cotdistill_jax import files

_MACRO_USE = re.compile(r"%([A-Za-z_]\w*)")
_MACRO_BINDING = re.compile(r"^([A-Z][A-Z0-9_]*)\s*=", re.MULTILINE)


def split_bindings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (bindings, other arguments): `--gin.NAME=VALUE` becomes the binding `NAME = VALUE`.

        >>> split_bindings(["--gin.TRAIN_STEPS=5", "--gin_file=a.gin"])
        (['TRAIN_STEPS = 5'], ['--gin_file=a.gin'])

    Raises:
      ValueError: a `--gin.` argument without `=`.
    """
    bindings, others = [], []
    for argument in arguments:
        if not argument.startswith("--gin."):
            others.append(argument)
            continue
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            raise ValueError(f"gin: {argument!r} has no value; write --gin.NAME=VALUE")
        _check_value(name, value)
        bindings.append(f"{name} = {value}")
    return bindings, others


class _AnyReference(config_parser.ParserDelegate):
    """Takes every reference and macro as they are: only the form of a value is of interest."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        return scoped_configurable_name

    def macro(self, macro_name: str) -> str:
        return macro_name


def _check_value(name: str, value: str) -> None:
    """Raises ValueError where a binding's value is no Python literal, `%macro` or `@reference`, as where a text lost its quotes."""
    try:
        list(config_parser.ConfigParser(f"x = {value}", _AnyReference()))
    except SyntaxError as error:
        raise ValueError(
            f"gin: --gin.{name}={value} is no value that gin reads. A text needs quotes that the shell leaves: --gin.{name}='\"{value}\"'"
        ) from error


def parse(
    gin_files: Sequence[str], bindings: Sequence[str] = (), search_paths: Iterable[str] = (".",)
) -> None:
    """Parses files and bindings into gin's (emptied) configuration and finalises it.

    Raises:
      FileNotFoundError: a file is in none of the search paths.
      ValueError: a macro that no gin file of the project uses (a typo), an unknown name, a missing required value.
    """
    gin.clear_config()
    paths = [*dict.fromkeys([*search_paths, cotdistill_jax.gin_search_path()])]
    for path in paths:
        gin.add_config_file_search_path(path)
    for file in gin_files:
        if not any(_file(path, file).is_file() for path in paths):
            raise FileNotFoundError(
                f"gin: no file {file} in any of {paths}; give --gin_search_paths"
            )
    _check_macros(gin_files, bindings, paths)
    # Gin's own readers keep byte order marks, and log every folder in which a file is not.
    readers, gin.config._FILE_READERS = gin.config._FILE_READERS, [(_read_gin_file, os.path.isfile)]
    try:
        gin.parse_config_files_and_bindings(list(gin_files), list(bindings))
    finally:
        gin.config._FILE_READERS = readers
    _check_warmup()


def _file(folder: str, name: str) -> pathlib.Path:
    return files.local_path(folder, "gin", "a folder of gin files") / name


def _check_warmup() -> None:
    """Raises ValueError where the learning rate has no steps left to fall after its warm-up; says so where it need not fall."""
    bound = {}
    for name in ("TRAIN_STEPS", "WARMUP_STEPS", "LEARNING_RATE_SCHEDULE"):
        with contextlib.suppress(ValueError):
            bound[name] = gin.query_parameter(f"{name}/macro.value")
    steps, warmup = (bound.get(name) for name in ("TRAIN_STEPS", "WARMUP_STEPS"))
    if isinstance(steps, int) and isinstance(warmup, int) and steps < warmup:
        said = (
            f"gin: TRAIN_STEPS = {steps} is below WARMUP_STEPS = {warmup}: the run would end before its learning rate is reached. "
            f"Give --gin.WARMUP_STEPS={steps // 10} or more steps."
        )
        if "cosine" in str(bound.get("LEARNING_RATE_SCHEDULE")):
            raise ValueError(said)
        print(said, file=sys.stderr)


def _read_gin_file(path: str) -> io.StringIO:
    """Returns a gin file for gin to read, without a byte order mark."""
    return io.StringIO(files.read_text(path, "gin", "a gin file"))


def _check_macros(gin_files: Sequence[str], bindings: Sequence[str], paths: Sequence[str]) -> None:
    """Raises for a macro, bound in a given file or binding, that no file under a `gin/` folder ever uses."""
    given = [next(f for p in paths if (f := _file(p, file)).is_file()) for file in gin_files]
    shipped = [file for path in paths for file in sorted(_file(path, "gin").rglob("*.gin"))]
    texts = [files.read_text(file, "gin", "a gin file") for file in [*shipped, *given]]
    used = {name for text in [*texts, *bindings] for name in _MACRO_USE.findall(text)}
    bound = "\n".join([*(files.read_text(file, "gin", "a gin file") for file in given), *bindings])
    unused = sorted(set(_MACRO_BINDING.findall(bound)) - used)
    if unused:
        close = difflib.get_close_matches(unused[0], sorted(used), n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(used))}"
        )
        raise ValueError(f"gin: macro {unused[0]} is bound but nothing uses it; {hint}")
