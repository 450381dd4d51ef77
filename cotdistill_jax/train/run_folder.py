"""What a run folder says about its run: writable or not, configuration, versions, devices, data counts."""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import uuid
from collections.abc import Mapping
from typing import Any

import jax

import cotdistill_jax
from cotdistill_jax.features import LengthReport
from cotdistill_jax.teacher.shards import write_json_atomically

MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "config.gin"
DATA_COUNTS_FILE = "data_counts.json"
SCHEMA_VERSION = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "numpy")


def prepare(model_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the run folder, made where missing and seen to be writable.

    Raises:
      OSError: it can't be made or written; the message names the folder and the reason.
    """
    folder = pathlib.Path(model_dir)
    probe = folder / f".writable-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            error.errno,
            f"train: the run folder can't be written ({error.strerror}); choose another MODEL_DIR",
            os.fspath(folder),
        ) from error
    return folder


def write_description(folder: pathlib.Path, gin_config: str, command: list[str]) -> None:
    """Writes `config.gin` (the resolved configuration) and `manifest.json` (command, versions, devices)."""
    (folder / CONFIG_FILE).write_text(gin_config, encoding="utf-8")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "code_version": code_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "devices": [str(device) for device in jax.devices()],
        "num_hosts": jax.process_count(),
    }
    write_json_atomically(folder / MANIFEST_FILE, manifest)


def write_data_counts(folder: pathlib.Path, reports: Mapping[str, LengthReport]) -> None:
    """Writes `data_counts.json`: per task examples seen, kept and dropped as too long, and their lengths."""
    content: dict[str, Any] = {name: dataclasses.asdict(report) for name, report in reports.items()}
    write_json_atomically(folder / DATA_COUNTS_FILE, content)


def code_version() -> str:
    """Returns the package's version, with the git commit where the code runs from a checkout."""
    root = pathlib.Path(cotdistill_jax.__file__).parents[1]
    described = subprocess.run(
        ["git", "-C", os.fspath(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    commit = described.stdout.strip()
    return f"{cotdistill_jax.__version__}+{commit}" if commit else cotdistill_jax.__version__
