"""What makes a checkpoint usable on its own: `model.json` and the vocabulary beside it.

A run folder (`model_dir`) holds

| file | content |
|---|---|
| `model.json` | dimensions of the network, name, sha256 and extra ids of the vocabulary |
| `spiece.model` | a copy of the SentencePiece vocabulary |
| `checkpoint_N/` | parameters and optimizer state after step N (`train_state.py`) |

so that `load_model(folder)` needs nothing else: no gin file, no data.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp

from cotdistill_jax import files, network
from cotdistill_jax.checkpoints import stored, train_state
from cotdistill_jax.files import file_sha256, write_json_atomically

MODEL_FILE = "model.json"
VOCABULARY_FILE = "spiece.model"
_CACHE = "~/.cache/cotdistill_jax/files"
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its parameters and its vocabulary.

    Attributes:
      config: dimensions of the network.
      params: nested dict of float32 arrays, the collection "params"; NumPy's, or `StoredArray`s where they are still to be read.
      vocabulary_file: SentencePiece model; its sha256 was compared with the one in `model.json`.
      extra_ids: sentinel ids above the SentencePiece pieces (100 for T5, 0 for the embedded vocabulary).
      step: training step of the parameters.
      path: the `checkpoint_N` folder they were read from.
    """

    config: network.T5Config
    params: dict[str, Any]
    vocabulary_file: pathlib.Path
    extra_ids: int
    step: int
    path: files.Path


def write_model_files(
    model_dir: files.AnyPath,
    config: network.T5Config,
    vocabulary_file: files.AnyPath,
    extra_ids: int,
) -> None:
    """Writes `model.json` and the vocabulary into a run folder.

    Raises:
      ValueError: the folder already belongs to another network or vocabulary; the message lists what differs.
    """
    folder = files.as_path(model_dir)
    source = files.as_path(vocabulary_file)
    content = {
        "schema_version": SCHEMA_VERSION,
        "network": _to_json(config),
        "vocabulary": {
            "file": VOCABULARY_FILE,
            "sha256": file_sha256(source),
            "extra_ids": extra_ids,
        },
    }
    target = folder / MODEL_FILE
    if target.exists():
        found = json.loads(target.read_text(encoding="utf-8"))
        differing = _differences(found, content)
        if differing:
            raise ValueError(
                f"checkpoints: {target} describes another model: {'; '.join(differing)}; "
                "use another MODEL_DIR or the settings of that run"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / VOCABULARY_FILE, source.read_bytes())
    write_json_atomically(target, content)


def load_model(path: files.AnyPath) -> Model:
    """Returns the model of a run folder (its latest whole step) or of one `checkpoint_N` folder in it.

    Raises:
      FileNotFoundError: no such folder, no checkpoint in it, or no `model.json` or vocabulary beside it.
      ValueError: the vocabulary is not the one of the run, or the parameters have other shapes than
        `model.json` says; the message lists what differs.
    """
    folder = files.as_path(path)
    model_dir, step = train_state.locate(folder)
    config, vocabulary_file, extra_ids = read_model_files(model_dir)
    params = train_state.read_params(model_dir, step, config)
    checkpoint = model_dir / f"{train_state.STEP_PREFIX}_{step}"
    return Model(config, params, vocabulary_file, extra_ids, step, checkpoint)


def read_model_files(
    model_dir: files.AnyPath,
) -> tuple[network.T5Config, pathlib.Path, int]:
    """Returns the network's dimensions, the vocabulary file and the number of extra ids of a run folder.

    Args:
      model_dir: the run folder; local or in a bucket, from which the vocabulary is copied to the user's cache.

    Raises:
      FileNotFoundError: `model.json` or the vocabulary is missing.
      ValueError: the vocabulary has another sha256 than `model.json` says.
    """
    folder = str(files.as_path(model_dir))
    description = stored.read_file(stored.open_folder(folder), MODEL_FILE)
    if description is None:
        raise FileNotFoundError(
            f"checkpoints: {folder} has no {MODEL_FILE}, so its network and vocabulary are unknown; "
            "expected a folder written by `python -m cotdistill_jax.train` or scripts/convert_checkpoint.py"
        )
    content = json.loads(description)
    vocabulary = content["vocabulary"]
    vocabulary_file = local_file(folder, vocabulary["file"])
    if vocabulary_file is None:
        raise FileNotFoundError(
            f"checkpoints: the vocabulary {folder}/{vocabulary['file']} is missing; copy the SentencePiece model with "
            f"sha256 {vocabulary['sha256'][:12]}... there"
        )
    found = file_sha256(vocabulary_file)
    if found != vocabulary["sha256"]:
        raise ValueError(
            f"checkpoints: {folder}/{vocabulary['file']} is not the vocabulary of this run: sha256 {found[:12]}..., "
            f"expected {vocabulary['sha256'][:12]}..."
        )
    return _from_json(content["network"]), vocabulary_file, vocabulary["extra_ids"]


def local_file(folder: files.AnyPath, name: str) -> pathlib.Path | None:
    """Returns the path of a file of a folder, or None; from a bucket it is copied to `~/.cache/cotdistill_jax`."""
    path = files.as_path(folder) / name
    if isinstance(path, pathlib.Path):
        return path if path.is_file() else None
    if not path.is_file():
        return None
    content = path.read_bytes()
    copy = pathlib.Path(_CACHE).expanduser() / hashlib.sha256(content).hexdigest() / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    partial = copy.with_suffix(f".{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(copy)
    return copy


def _to_json(config: network.T5Config) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    fields["dtype"] = jnp.dtype(config.dtype).name
    fields["mlp_activations"] = list(config.mlp_activations)
    return fields


def _from_json(fields: dict[str, Any]) -> network.T5Config:
    fields = dict(fields, mlp_activations=tuple(fields["mlp_activations"]))
    return network.T5Config(**fields)


def _differences(found: Any, expected: Any, name: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted(found.keys() | expected.keys())
        return [
            difference
            for key in keys
            for difference in _differences(found.get(key), expected.get(key), f"{name}.{key}")
        ]
    return [] if found == expected else [f"{name[1:]} is {found}, this run has {expected}"]
