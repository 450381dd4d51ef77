"""Which checkpoints one call evaluates (a folder, a list of steps, a glob), and loading them."""

import dataclasses
import os
import pathlib
import re
from typing import Any

from etils import epath

from cotdistill_jax import checkpoints, files
from cotdistill_jax.checkpoints import conversion, hub, model_files, stored

_HUGGINGFACE_CONFIG = "config.json"
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
)  # named for the folder that they lie in
_REMOTE = "://"
_STEP_NAME = re.compile(r"checkpoint_([0-9]+)")


@dataclasses.dataclass(frozen=True)
class Selected:
    """One checkpoint to evaluate.

    Attributes:
        path: the `checkpoint_N` folder or file, ours or T5X's, or a Hugging Face folder; an `epath.Path` for `gs://`.
        step: its N; 0 for a Hugging Face folder.
        folder: where its results go, relative to the output folder; `.` for the output folder itself.
    """

    path: Any
    step: int
    folder: pathlib.Path = pathlib.Path(".")


def select(checkpoint: str, steps: str | None = None) -> list[Selected]:
    """Returns the checkpoints that the flags `--checkpoint` and `--steps` name, runs by name, steps ascending.

    Args:
        checkpoint: a run folder (ours or T5X's), a `checkpoint_N` folder in it, a Hugging Face folder (or the weights file
            in it), a single-file T5X checkpoint, or a glob of such; or one of ours or T5X's as `gs://bucket/.../checkpoint_N`; or a
            published name such as `google/flan-t5-base` (`checkpoints.hub`).
        steps: for run folders: `all`, `latest` or a list such as `100,200`. None means `latest`.

    With one folder and no steps the results go to the output folder itself. Otherwise each checkpoint gets
    `checkpoint_N` there, or `<run>/checkpoint_N` where a glob names several runs.

    Raises:
        FileNotFoundError: nothing matches, or a step does not exist; the message lists those that do.
        ValueError: `steps` cannot be read, or is given with a `checkpoint_N` folder.
    """
    checkpoint = hub.local(checkpoint)
    if _REMOTE in checkpoint:
        return [_remote(checkpoint, steps)]
    if files.is_name(checkpoint) and steps is None:
        return [_latest(pathlib.Path(checkpoint))]
    matches = sorted(
        path for path in files.matches(checkpoint) if os.path.isdir(path) or _is_file(path)
    )
    if not matches:
        raise FileNotFoundError(f"inference: no folder matches --checkpoint={checkpoint}")
    found = [one for match in matches for one in _steps_of(pathlib.Path(match), steps)]
    distinct = sorted(
        {one.path: one for one in found}.values(), key=lambda one: (one.path.parent, one.step)
    )
    parents = {one.path.parent for one in distinct}
    common = pathlib.Path(os.path.commonpath(parents))
    return [dataclasses.replace(one, folder=one.path.relative_to(common)) for one in distinct]


def load(
    selected: Selected, vocabulary_file: str | os.PathLike[str] | None = None
) -> checkpoints.Model:
    """Returns the model of a selected checkpoint, read into memory; arguments, layouts and exceptions are those of `open_model`."""
    model = open_model(selected, vocabulary_file)
    return dataclasses.replace(model, params=stored.materialise(model.params))


def open_model(
    selected: Selected, vocabulary_file: str | os.PathLike[str] | None = None
) -> checkpoints.Model:
    """Returns the model of a selected checkpoint, whichever layout it has: ours, Hugging Face's or T5X's; nothing is read yet.

    Scanned layers are taken apart, because they do not decode. The parameters are `StoredArray`s.

    Args:
        selected: from `select`.
        vocabulary_file: its SentencePiece model; None takes `spiece.model` in the folder or the one above.

    Raises:
        FileNotFoundError: a file is missing, such as the vocabulary (T5X's checkpoints hold none).
        ValueError: a file is damaged or belongs to another model, such as a vocabulary of another size.
    """
    weights = conversion.open_weights(str(selected.path))
    config, params = weights.config, weights.params
    vocabulary = pathlib.Path(
        vocabulary_file or weights.vocabulary_file or _vocabulary_beside(selected.path)
    )
    recorded = weights.layout == conversion.OURS and vocabulary_file is None
    if vocabulary.is_file() and not recorded:
        # Evaluation uses no extra ids, and T5X's checkpoints do not tell how many there are.
        conversion.check_vocabulary(vocabulary, 0, config.vocab_size)
    return checkpoints.Model(
        config, params, vocabulary, weights.extra_ids, selected.step, selected.path
    )


def _vocabulary_beside(path: Any) -> pathlib.Path:
    for folder in (path, path.parent):
        found = model_files.local_file(str(folder), model_files.VOCABULARY_FILE)
        if found is not None:
            return found
    published = hub.bucket_vocabulary(str(path))
    found = model_files.local_file(*published) if published else None
    if found is not None:
        return found
    other = model_files.local_file(str(path), "tokenizer.json")
    instead = ", only tokenizer.json, which SentencePiece does not read" if other else ""
    raise FileNotFoundError(
        f"inference: the checkpoint {path} has no {model_files.VOCABULARY_FILE}{instead}; pass --vocab=FILE (T5's is "
        "t5/spiece.model of the benchmark folder), or copy the SentencePiece model there"
    )


def _remote(checkpoint: str, steps: str | None) -> Selected:
    """Returns a checkpoint in a bucket, which is not listed: it must be named to the step."""
    name = checkpoint.rstrip("/").rpartition("/")[2]
    if steps is not None or not _STEP_NAME.fullmatch(name):
        raise ValueError(
            f"inference: a checkpoint in a bucket is named to its step, `gs://.../checkpoint_N`, without --steps or a "
            f"pattern; got {checkpoint} and --steps={steps}"
        )
    return Selected(epath.Path(checkpoint.rstrip("/")), _step_in(name))


def _is_file(path: str) -> bool:
    name = os.path.basename(path)
    return os.path.isfile(path) and (name in _WEIGHT_FILES or bool(_STEP_NAME.fullmatch(name)))


def _step_in(name: str) -> int:
    found = _STEP_NAME.fullmatch(name)
    return int(found[1]) if found else 0


def _latest(path: pathlib.Path) -> Selected:
    if path.is_file() and path.name in _WEIGHT_FILES:
        path = path.parent
    if path.is_file():
        return Selected(path, _step_in(path.name))
    if (path / _HUGGINGFACE_CONFIG).exists():
        return Selected(path, 0)
    run, step = checkpoints.locate(path)
    return _step(run, step)


def _step(run: pathlib.Path, step: int) -> Selected:
    return Selected(run / f"{checkpoints.train_state.STEP_PREFIX}_{step}", step)


def _steps_of(path: pathlib.Path, steps: str | None) -> list[Selected]:
    latest = _latest(path)
    single = latest.path == path
    if single and steps is not None:
        raise ValueError(
            f"inference: --steps={steps} chooses among the steps of a run folder, got the single checkpoint {path}; "
            "pass its run folder, or no --steps"
        )
    if single or steps in (None, "latest"):
        return [latest]
    there = checkpoints.list_steps(path)
    if steps == "all":
        return [_step(path, step) for step in there]
    try:
        wanted = [int(step) for step in str(steps).split(",")]
    except ValueError as error:
        raise ValueError(
            f"inference: --steps must be all, latest or numbers such as 100,200; got {steps!r}"
        ) from error
    missing = sorted(set(wanted) - set(there))
    if missing:
        raise FileNotFoundError(
            f"inference: {path} has no checkpoint of step {missing}; it has {there}"
        )
    return [_step(path, step) for step in wanted]
