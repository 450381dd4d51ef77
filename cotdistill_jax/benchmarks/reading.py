"""Finding and reading benchmark files, with errors that say which file, which record, which field."""

import math
import os
from collections.abc import Mapping
from typing import Any

from cotdistill_jax import files

DATA_DIR_VARIABLE = "COTDISTILL_DATA_DIR"
DOWNLOAD_COMMAND = "python scripts/download_benchmarks.py --data_dir={data_dir}"


def data_path(relative: str, data_dir: files.AnyPath | None) -> files.Path:
    """Returns the path of an existing benchmark file.

    Args:
      relative: path inside the benchmark folder, such as `gsm8k/test.jsonl`.
      data_dir: the benchmark folder; None reads the environment variable COTDISTILL_DATA_DIR.

    Raises:
      FileNotFoundError: no folder is given, or it lacks the file; the message names the file, where it
        was looked for and the command that fetches it.
    """
    folder = os.environ.get(DATA_DIR_VARIABLE) if data_dir is None else str(data_dir)
    if not folder:
        raise FileNotFoundError(
            f"benchmarks: {relative} is needed, but no data_dir was given and {DATA_DIR_VARIABLE} is "
            f"not set. Fetch the files with `{DOWNLOAD_COMMAND.format(data_dir='DIR')}`, then set "
            f"{DATA_DIR_VARIABLE}=DIR or pass data_dir."
        )
    path = files.as_path(folder) / relative
    if not path.is_file():
        raise FileNotFoundError(
            f"benchmarks: no file {relative} in {folder} (looked for {path}). "
            f"Fetch it with `{DOWNLOAD_COMMAND.format(data_dir=folder)}`."
        )
    return path


def read_json(path: files.Path) -> Any:
    """Returns the parsed content of one JSON file; ValueError names the file, and what it holds if it is not JSON."""
    return files.read_json(path, "benchmarks")


def read_json_list(path: files.Path) -> list[Any]:
    """Returns the records of a JSON file that holds one list; ValueError names the file if not."""
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"benchmarks: {path} must hold a list, got {type(records).__name__}")
    return records


def read_json_lines(path: files.Path) -> list[Any]:
    """Returns one parsed value per line that is not blank; ValueError names file and line if one is not JSON."""
    return [value for _, value in files.read_json_lines(path, "benchmarks")]


def field(record: object, name: str, kind: type | tuple[type, ...], path: object, row: int) -> Any:
    """Returns `record[name]` after checking that it is there, of the right type and not empty.

    Args:
      record: one parsed record, expected to be a mapping.
      name: the field's name.
      kind: type or types the value must have.
      path: file the record came from, for the message.
      row: 0-based number of the record in the file, for the message.

    Raises:
      ValueError: the message names file, record and field, and says what was found instead.
    """
    where = f"benchmarks: {path} record {row}"
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: expected a mapping with field {name!r}, got {record!r:.80}")
    if name not in record:
        raise ValueError(f"{where}: field {name!r} is missing; it has {sorted(record)}")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = (
            kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        )
        raise ValueError(f"{where}: field {name!r} must be {expected}, got {value!r:.80}")
    if value == [] or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{where}: field {name!r} is empty")
    return value


def number_text(value: object, name: str, path: object, row: int) -> str:
    """Returns a JSON number as people write it: `39.0` gives `39`, `2.5` gives `2.5`.

    Raises:
      ValueError: the value is not a finite number; the message names file, record and field.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(
            f"benchmarks: {path} record {row}: field {name!r} must be a number, got {value!r:.80}"
        )
    return str(int(value)) if value == int(value) else str(value)
