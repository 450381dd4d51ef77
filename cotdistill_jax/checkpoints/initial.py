"""The weights that a new run starts from instead of drawn ones: `INITIAL_CHECKPOINT_PATH` of both runners.

The embedded runner reads every layout (`read`), T5X restores its own two (`locate_t5x`). Neither takes over the step
or the optimizer's state: to go on with a run, name its folder as MODEL_DIR.
"""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from cotdistill_jax import files, network
from cotdistill_jax.checkpoints import conversion, hub, stored, t5x_legacy, train_state
from cotdistill_jax.files import file_sha256

_CACHE = "~/.cache/cotdistill_jax/weights"
# What may differ between the checkpoint's network and the run's: nothing that the parameters depend on.
_FREE = ("dropout_rate", "dtype", "scan_layers", "remat", "attention_block")


def read(
    path: str, config: network.T5Config, vocabulary_file: files.AnyPath
) -> tuple[dict[str, Any], str]:
    """Returns the parameters at a path, `StoredArray`s that `placement.place` reads, and a sentence on what was taken over.

    Args:
      path: a Hugging Face folder, a run folder or a `checkpoint_N` in it, or a T5X checkpoint, legacy or Orbax,
        local or `gs://`; or a name, see `hub`.
      config: dimensions of the run's network.
      vocabulary_file: the run's SentencePiece model, compared with the one beside the weights, if any.

    Raises:
      FileNotFoundError: nothing of the kind is there.
      ValueError: it holds another network or vocabulary; the message lists what differs.
    """
    weights = conversion.open_weights(files.expand_home(path))  # a gin file may say `~`
    faults = _differing(weights.config, config)
    theirs = weights.vocabulary_file
    if theirs is not None and file_sha256(theirs) != file_sha256(vocabulary_file):
        faults.append(f"{theirs} is another vocabulary than {vocabulary_file}")
    if faults:
        raise ValueError(_misfit(path, faults))
    params = weights.params
    if config.scan_layers:
        params = network.stack_layers(params, stored.stack)
    unknown = (
        "" if theirs else "; no spiece.model lies beside them: the vocabulary was not compared"
    )
    return params, (
        f"starts from the weights of {path} ({weights.layout}, step {weights.step}); step and optimizer state are new{unknown}"
    )


def locate_t5x(path: str, config: network.T5Config) -> str:
    """Returns the `checkpoint_N` folder that T5X restores, after comparing its shapes with the network's.

    A Hugging Face folder, which T5X can't read, is converted once into `~/.cache/cotdistill_jax/weights`, said in a line.

    Args:
      path: a `checkpoint_N` in T5X's legacy or Orbax layout (that of both runners), or a folder of them, whose newest
        whole one is meant; local or `gs://`; a Hugging Face folder; or a name, see `hub`.
      config: dimensions of the run's network.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: it holds another network; the message lists what differs.
    """
    path = hub.local(files.expand_home(path))
    folder = files.as_path(path)
    if (folder / "config.json").exists():
        faults = _differing(conversion.open_weights(path).config, config)
        if faults:
            raise ValueError(_misfit(path, faults))
        path = _converted(folder)
    name = path.rstrip("/").rsplit("/", 1)[-1]
    found_at = path.rstrip("/") if name.startswith("checkpoint_") else t5x_legacy.latest(path)
    found = _shapes(t5x_legacy.open_tree(found_at))
    expected = _shapes(train_state.abstract_params(config))
    faults = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if faults:
        raise ValueError(_misfit(path, faults))
    return found_at


def _converted(folder: files.Path) -> str:
    """Returns the folder of a Hugging Face folder's weights in T5X's layout; made where missing, whole or not at all."""
    made = pathlib.Path(_CACHE).expanduser() / hub.identity(folder)
    if not made.exists():
        print(f"checkpoints: converting {folder} for T5X, once, into {made}", flush=True)
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as temporary:
            whole = pathlib.Path(temporary) / "whole"
            conversion.save(conversion.open_weights(str(folder)), str(whole), conversion.T5X)
            try:
                whole.rename(made)
            except OSError:  # another process was faster
                if not made.exists():
                    raise
    return os.fspath(made)


def _differing(found: network.T5Config, expected: network.T5Config) -> list[str]:
    theirs, ours = dataclasses.asdict(found), dataclasses.asdict(expected)
    return [
        f"{name} is {theirs[name]}, this run has {ours[name]}"
        for name in ours
        if name not in _FREE and theirs[name] != ours[name]
    ]


def _misfit(path: str, faults: list[str]) -> str:
    shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if faults[8:] else "")
    return (
        f"checkpoints: INITIAL_CHECKPOINT_PATH {path} does not fit this run: {shown}; include the gin/models/ file of "
        "its size and take its vocabulary"
    )


def _shapes(params: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    flat = traverse_util.flatten_dict(dict(params), sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}
