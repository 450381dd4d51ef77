"""One checkpoint -> the same weights in another world's layout: ours, Hugging Face's or T5X's.

Weights are streamed: a Hugging Face folder is mapped into memory, and every writer works tensor by tensor, so a
conversion needs at most about one copy of the weights.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import sentencepiece
from flax import traverse_util

import cotdistill_jax
from cotdistill_jax import network
from cotdistill_jax.checkpoints import huggingface, model_files, t5x_legacy, train_state
from cotdistill_jax.teacher.shards import write_json_atomically

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
      params: nested dict of float32 arrays, one name per layer (those of a scanned run are unstacked).
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
    """Returns the weights at a path, whose layout is told by the files there.

    Args:
      path: a Hugging Face folder, one of our run folders or a `checkpoint_N` in it, or a T5X `checkpoint_N` (or a
        folder of them: the newest whole one is taken); T5X's may be `gs://`.
      dtype: activation type of the returned config, where the layout records none.

    Raises:
      FileNotFoundError: nothing of the kind is there.
      ValueError: it is damaged or not a T5; the message lists what differs.
    """
    folder = pathlib.Path(path)
    if (folder / "config.json").exists():
        return _load_hugging_face(folder, dtype)
    if any((at / model_files.MODEL_FILE).exists() for at in (folder, folder.absolute().parent)):
        return _load_ours(folder)
    name = path.rstrip("/").rsplit("/", 1)[-1]
    at_step = name.startswith("checkpoint_") or folder.is_file()
    path = path if at_step else t5x_legacy.latest(path)
    params = t5x_legacy.read(path)
    step = int(np.asarray(t5x_legacy.read(path, "state")["step"]))
    config = t5x_legacy.infer_config(params, dtype)
    _check_complete(params, config, path)
    return Weights(T5X, config, params, None, _T5_EXTRA_IDS, step)


def save(
    weights: Weights,
    folder: str,
    layout: str,
    vocabulary_file: str | os.PathLike[str] | None = None,
    extra_ids: int | None = None,
) -> str:
    """Writes weights in a layout and a manifest beside them; returns the path that `load` takes.

    Args:
      weights: from `load`.
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
        if pathlib.Path(written).exists():
            raise ValueError(f"checkpoints: {written} exists; choose another output folder")
        if layout == T5X:
            t5x_legacy.write(written, weights.params, weights.step)
        else:
            assert vocabulary is not None
            model_files.write_model_files(folder, weights.config, vocabulary, extra_ids)
            _write_orbax(folder, weights.params, weights.step)
    if not folder.startswith("gs://"):
        _write_manifest(pathlib.Path(folder), weights, layout)
    return written


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Returns the names of the parameters that are not bit-equal in two trees, sorted."""
    flat = [traverse_util.flatten_dict(dict(tree), sep="/") for tree in (left, right)]
    names = sorted(flat[0].keys() | flat[1].keys())
    return [
        name
        for name in names
        if name not in flat[0]
        or name not in flat[1]
        or not np.array_equal(flat[0][name], flat[1][name])
    ]


def _load_ours(folder: pathlib.Path) -> Weights:
    model = model_files.load_model(folder)
    config, params = model.config, model.params
    if config.scan_layers:
        config, params = (
            dataclasses.replace(config, scan_layers=False),
            network.unstack_layers(params),
        )
    return Weights(OURS, config, params, model.vocabulary_file, model.extra_ids, model.step)


def _load_hugging_face(folder: pathlib.Path, dtype: str) -> Weights:
    config, params = huggingface.read(folder, dtype)
    vocabulary = folder / model_files.VOCABULARY_FILE
    tokenizer = folder / "tokenizer_config.json"
    extra_ids = _T5_EXTRA_IDS
    if tokenizer.exists():
        extra_ids = json.loads(tokenizer.read_text(encoding="utf-8")).get("extra_ids", extra_ids)
    found = vocabulary if vocabulary.exists() else None
    return Weights(HUGGING_FACE, config, params, found, extra_ids, 0)


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


def check_vocabulary(file: str | os.PathLike[str], extra_ids: int, vocab_size: int) -> None:
    """Checks that a SentencePiece model fits a network's logits, of which a few may be unused.

    Raises:
      ValueError: it does not; the message has the three numbers.
    """
    pieces = len(sentencepiece.SentencePieceProcessor(model_file=os.fspath(file)))
    unused = vocab_size - pieces - extra_ids
    if not 0 <= unused < _MOST_UNUSED_IDS:
        raise ValueError(
            f"checkpoints: {file} has {pieces} pieces and {extra_ids} extra ids, but the model has {vocab_size} "
            "logits: it belongs to another vocabulary; name the right one with --vocabulary and --extra_ids"
        )


def _write_orbax(folder: str, params: Mapping[str, Any], step: int) -> None:
    options = ocp.CheckpointManagerOptions(
        step_prefix=train_state.STEP_PREFIX, enable_async_checkpointing=False
    )
    tree = {"target": params, "state": {"step": np.int32(step)}}
    with ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options) as manager:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree)))


def _write_manifest(folder: pathlib.Path, weights: Weights, layout: str) -> None:
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
