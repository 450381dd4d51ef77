"""`manifest.json` of an evaluation folder: what the predictions were made with, so that nothing is mixed.

Keys: `artefact`, `schema_version`, `code_version`; `config`, which all files of the folder share (checkpoint, network,
vocabulary, generation); `predictions`, per file its `settings` (questions, prompt, input length: with checksums) and, once
it is complete, its `counts`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import cotdistill_jax
from cotdistill_jax import files
from cotdistill_jax.files import write_json_atomically
from cotdistill_jax.teacher.shards import MANIFEST_NAME

ARTEFACT = "inference"
SCHEMA_VERSION = 1
_START_BYTES = 1 << 16

Settings = Mapping[str, Any]


def read(folder: files.Path) -> dict[str, Any] | None:
    """Returns the manifest of an evaluation folder, or None where there is none yet.

    Raises:
        ValueError: the manifest is not JSON, or of another artefact or schema version.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    found: dict[str, Any] = files.read_json(path, "inference")
    got = (found.get("artefact"), found.get("schema_version"))
    if got != (ARTEFACT, SCHEMA_VERSION):
        raise ValueError(
            f"inference: {path} describes {got[0]} schema version {got[1]}, expected {ARTEFACT} schema "
            f"version {SCHEMA_VERSION}. Choose another --output_dir."
        )
    return found


def folder_sha256(folder: files.Path) -> str:
    """Returns a checksum that tells checkpoints apart without reading them whole.

    It covers name, size and first 64 KiB of every file. Saving a checkpoint again changes it, moving the folder
    does not. A checkpoint may be one file, too. In a bucket sizes are not asked for, so that a copy there has another checksum.
    """
    digest = hashlib.sha256()
    single = folder.is_file()
    if isinstance(folder, files.BucketPath):
        for path in [folder] if single else sorted(folder.rglob("*")):
            digest.update(
                f"{files.name_below(path, folder)}\0".encode() + path.read_head(_START_BYTES)
            )
        return digest.hexdigest()
    for file in [folder] if single else sorted(p for p in folder.rglob("*") if p.is_file()):
        start = files.read_head(file, _START_BYTES)
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode() + start)
    return digest.hexdigest()


def claim(folder: files.Path, config: Settings, settings: Mapping[str, Settings]) -> None:
    """Writes down what files are about to be made with, or checks it against what is written there.

    Args:
        folder: the evaluation folder, made where missing.
        config: settings that all files of the folder share; JSON values.
        settings: of each file, by its key.

    Raises:
        ValueError: the folder, or a file in it, was made with other settings; the message names each.
    """
    found = read(folder) or {"config": _plain(config), "predictions": {}}
    faults = differences(found["config"], config)
    for key, of_file in settings.items():
        entry = found["predictions"].setdefault(key, {"settings": _plain(of_file), "counts": {}})
        faults += [f"{key}: {fault}" for fault in differences(entry["settings"], of_file)]
    if faults:
        raise ValueError(
            f"inference: {folder} was made with other settings: {'; '.join(faults)}. Use the same settings, or "
            "another --output_dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, found)


def record_counts(folder: files.Path, key: str, counts: Mapping[str, int]) -> None:
    """Writes the counts of a complete file."""
    found = read(folder)
    if found is None:
        raise FileNotFoundError(f"inference: {folder} has no {MANIFEST_NAME}; `claim` it first")
    found["predictions"][key]["counts"] = dict(counts)
    _write(folder, found)


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """Returns one text per setting that differs, such as `"max_new_tokens is 256, now 128"`."""
    expected = _plain(expected)
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            text
            for key in sorted(found.keys() | expected.keys())
            for text in differences(found.get(key), expected.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if found == expected else [f"{name} is {found!r}, now {expected!r}"]


def _write(folder: files.Path, content: Mapping[str, Any]) -> None:
    header = {
        "artefact": ARTEFACT,
        "schema_version": SCHEMA_VERSION,
        "code_version": cotdistill_jax.__version__,
    }
    write_json_atomically(folder / MANIFEST_NAME, {**content, **header})


def _plain(value: Any) -> Any:
    """Returns a value as it reads after a trip through JSON (tuples become lists)."""
    return json.loads(json.dumps(value))
