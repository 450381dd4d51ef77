"""One checkpoint -> the same weights in another world's layout: ours, Hugging Face's or T5X's.

Weights are streamed: a source is opened, not read (`stored.StoredArray`), and every writer takes one tensor at a time.
So a conversion needs memory for a few tensors, whatever the model (tests/scripts/conversion_memory_test.py); the pages
of a mapped safetensors file, which the system takes back when it needs them, are counted beside that.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

import cotdistill_jax
from cotdistill_jax import files, network
from cotdistill_jax.checkpoints import (
    hub,
    huggingface,
    model_files,
    orbax_layout,
    stored,
    t5x_legacy,
    train_state,
)
from cotdistill_jax.files import write_json_atomically

OURS, HUGGING_FACE, T5X = "ours", "huggingface", "t5x"
LAYOUTS = (OURS, HUGGING_FACE, T5X)
MANIFEST_FILE = "manifest.json"
_T5_EXTRA_IDS = 100
_MOST_UNUSED_IDS = 256  # T5 rounds 32,100 ids up to 32,128 logits, mT5 250,100 up to 250,112


@dataclasses.dataclass(frozen=True)
class Weights:
    """A checkpoint read from any layout.

    Attributes:
      layout: one of `LAYOUTS`, what it was read from.
      config: dimensions of the network.
      params: nested dict of float32 arrays, NumPy's or `StoredArray`s, one name per layer (those of a scanned run are
        unstacked).
      vocabulary_file: the SentencePiece model found beside it, or None.
      extra_ids: sentinel ids above the vocabulary's pieces.
      step: training step; 0 where the layout records none.
    """

    layout: str
    config: network.T5Config
    params: dict[str, Any]
    vocabulary_file: pathlib.Path | None
    extra_ids: int
    step: int


def load(path: str, dtype: str = "float32") -> Weights:
    """Returns the weights at a path, read into memory; those of float32 safetensors are views of the mapped files.

    Args, layouts and exceptions are those of `open_weights`.
    """
    weights = _open(path, dtype)
    return _unstacked(dataclasses.replace(weights, params=stored.materialise(weights.params)))


def open_weights(path: str, dtype: str = "float32") -> Weights:
    """Returns the weights at a path, whose layout is told by the files there; its tensors are read when asked for.

    Args:
      path: a Hugging Face folder, one of our run folders or a `checkpoint_N` in it, or a T5X `checkpoint_N` (or a
        folder of them: the newest whole one is taken), all but Hugging Face's also `gs://`; or a name, see `hub`.
      dtype: activation type of the returned config, where the layout records none.

    Raises:
      FileNotFoundError: nothing of the kind is there.
      ValueError: it is damaged or not a T5; the message lists what differs.
    """
    return _unstacked(_open(path, dtype))


def save(
    weights: Weights,
    folder: str,
    layout: str,
    vocabulary_file: files.AnyPath | None = None,
    extra_ids: int | None = None,
) -> str:
    """Writes weights in a layout and a manifest beside them; returns the path that `load` takes.

    Args:
      weights: from `open_weights` or `load`.
      folder: made where missing; ours and T5X's layout make a `checkpoint_N` in it.
      layout: one of `LAYOUTS`.
      vocabulary_file: SentencePiece model; default is the one that was beside the source.
      extra_ids: sentinel ids above its pieces; default is the source's (T5: 100).

    Raises:
      ValueError: unknown layout, no vocabulary for our layout, a vocabulary that does not fit the logits, or
        weights are already there.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"checkpoints: unknown layout {layout!r}; allowed are {list(LAYOUTS)}")
    vocabulary = vocabulary_file or weights.vocabulary_file
    extra_ids = weights.extra_ids if extra_ids is None else extra_ids
    if vocabulary is None and layout == OURS:
        raise ValueError(
            "checkpoints: the source holds no spiece.model; name T5's with --vocabulary (t5/spiece.model of "
            "the benchmark folder)"
        )
    if vocabulary is not None:
        check_vocabulary(vocabulary, extra_ids, weights.config.vocab_size)
    if layout == HUGGING_FACE:
        written = folder
        huggingface.write(folder, weights.config, weights.params, vocabulary, extra_ids)
    else:
        written = f"{folder.rstrip('/')}/checkpoint_{weights.step}"
        if files.as_path(written).exists():
            raise ValueError(f"checkpoints: {written} exists; choose another output folder")
        if layout == T5X:
            t5x_legacy.write(written, weights.params, weights.step)
        else:
            assert vocabulary is not None
            model_files.write_model_files(folder, weights.config, vocabulary, extra_ids)
            tree = {"target": weights.params, "state": {"step": np.int32(weights.step)}}
            orbax_layout.write(folder, train_state.STEP_PREFIX, tree, weights.step)
    _write_manifest(files.as_path(folder), weights, layout)
    return written


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Returns the names of the parameters that are not bit-equal in two trees, sorted; reads one at a time."""
    flat = [traverse_util.flatten_dict(dict(tree), sep="/") for tree in (left, right)]
    differing = flat[0].keys() ^ flat[1].keys()
    for name in flat[0].keys() & flat[1].keys():
        if not np.array_equal(np.asarray(flat[0][name]), np.asarray(flat[1][name])):
            differing.add(name)
    return sorted(differing)


def _open(path: str, dtype: str) -> Weights:
    path = hub.local(path)
    folder = files.as_path(path)
    if (folder / "config.json").exists():
        return _open_hugging_face(folder, dtype)
    parent, _, name = path.rstrip("/").rpartition("/")
    prefix, _, number = name.rpartition("_")
    at_step = prefix == train_state.STEP_PREFIX and number.isdigit()
    single_file = isinstance(folder, pathlib.Path) and folder.is_file()
    at = path if at_step or single_file else t5x_legacy.latest(path)
    params = stored.as_float32(t5x_legacy.open_tree(at))
    step = t5x_legacy.step_of(at)
    run = (parent or ".") if at_step else path
    if single_file or not _has_model_file(run):
        config = t5x_legacy.infer_config(params, dtype)
        weights = Weights(T5X, config, params, None, _T5_EXTRA_IDS, step)
    else:
        config, vocabulary, extra_ids = model_files.read_model_files(run)
        weights = Weights(OURS, config, params, vocabulary, extra_ids, step)
    _check_complete(params, config, path)
    return weights


def _has_model_file(run: str) -> bool:
    folder = stored.open_folder(run)
    return stored.read_file(folder, model_files.MODEL_FILE) is not None


def _unstacked(weights: Weights) -> Weights:
    if not weights.config.scan_layers:
        return weights
    config = dataclasses.replace(weights.config, scan_layers=False)
    return dataclasses.replace(
        weights, config=config, params=network.unstack_layers(weights.params)
    )


def _open_hugging_face(folder: files.Path, dtype: str) -> Weights:
    config, params = huggingface.open_params(folder, dtype)
    vocabulary = model_files.local_file(folder, model_files.VOCABULARY_FILE)
    tokenizer = folder / "tokenizer_config.json"
    extra_ids = _T5_EXTRA_IDS
    if tokenizer.exists():
        extra_ids = files.read_json(tokenizer, "checkpoints").get("extra_ids", extra_ids)
    return Weights(HUGGING_FACE, config, params, vocabulary, extra_ids, 0)


def _check_complete(params: Mapping[str, Any], config: network.T5Config, path: str) -> None:
    def shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        flat = traverse_util.flatten_dict(dict(tree), sep="/")
        return {name: tuple(leaf.shape) for name, leaf in flat.items()}

    found, expected = shapes(params), shapes(train_state.abstract_params(config))
    names = sorted(found.keys() | expected.keys())
    faults = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
        for name in names
        if found.get(name) != expected.get(name)
    ]
    if faults:
        raise ValueError(f"checkpoints: {path} is not a whole T5: {'; '.join(faults[:8])}")


def check_vocabulary(file: files.AnyPath, extra_ids: int, vocab_size: int) -> None:
    """Checks that a SentencePiece model fits a network's logits, of which a few may be unused.

    Raises:
      ValueError: it does not; the message has the three numbers.
    """
    pieces = len(files.open_vocabulary(file, "checkpoints"))
    unused = vocab_size - pieces - extra_ids
    if not 0 <= unused < _MOST_UNUSED_IDS:
        raise ValueError(
            f"checkpoints: {file} has {pieces} pieces and {extra_ids} extra ids, but the model has {vocab_size} "
            "logits: it belongs to another vocabulary; name the right one with --vocabulary and --extra_ids"
        )


def _write_manifest(folder: files.Path, weights: Weights, layout: str) -> None:
    flat = traverse_util.flatten_dict(weights.params, sep="/")
    content = {
        "artefact": "converted_checkpoint",
        "schema_version": 1,
        "code_version": cotdistill_jax.__version__,
        "from_layout": weights.layout,
        "to_layout": layout,
        "step": weights.step,
        "counts": {
            "tensors": len(flat),
            "parameters": sum(int(np.prod(leaf.shape)) for leaf in flat.values()),
        },
    }
    write_json_atomically(folder / MANIFEST_FILE, content)
