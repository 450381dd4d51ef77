"""Which checkpoints one call evaluates (a folder, a list of steps, a glob), and loading them."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

from cotdistill_jax import checkpoints, files
from cotdistill_jax.checkpoints import conversion, hub, model_files, stored

_HUGGINGFACE_CONFIG = "config.json"
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
)  # named for the folder that they lie in
_STEP_NAME = re.compile(r"checkpoint_([0-9]+)")


@dataclasses.dataclass(frozen=True)
class Selected:
    """One checkpoint to evaluate.

    Attributes:
        path: the `checkpoint_N` folder or file, ours or T5X's, or a Hugging Face folder; on disk or in a bucket.
        step: its N; 0 for a Hugging Face folder.
        folder: where its results go, relative to the output folder; `.` for the output folder itself.
    """

    path: files.Path
    step: int
    folder: str = "."


def select(checkpoint: str, steps: str | None = None) -> list[Selected]:
    """Returns the checkpoints that the flags `--checkpoint` and `--steps` name, runs by name, steps ascending.

    Args:
        checkpoint: a run folder (ours or T5X's), a `checkpoint_N` folder in it, a Hugging Face folder (or the weights file
            in it), a single-file T5X checkpoint, or a glob of such, on disk or in a bucket; or a published name such as
            `google/flan-t5-base` (`checkpoints.hub`).
        steps: for run folders: `all`, `latest` or a list such as `100,200`. None means `latest`.

    With one folder and no steps the results go to the output folder itself. Otherwise each checkpoint gets
    `checkpoint_N` there, or `<run>/checkpoint_N` where a glob names several runs.

    Raises:
        FileNotFoundError: nothing matches, or a step does not exist; the message lists those that do.
        ValueError: `steps` cannot be read, or is given with a `checkpoint_N` folder.
    """
    checkpoint = hub.local(checkpoint)
    if files.is_name(checkpoint) and steps is None:
        return [_latest(files.as_path(checkpoint))]
    named = map(files.as_path, sorted(files.matches(checkpoint)))
    matches = [path for path in named if path.is_dir() or _is_weights_file(path)]
    if not matches:
        raise FileNotFoundError(f"inference: no folder matches --checkpoint={checkpoint}")
    found = [one for match in matches for one in _steps_of(match, steps)]
    distinct = sorted(
        {one.path: one for one in found}.values(), key=lambda one: (one.path.parent.parts, one.step)
    )
    depth = _common_depth(one.path.parent.parts for one in distinct)
    return [dataclasses.replace(one, folder="/".join(one.path.parts[depth:])) for one in distinct]


def _common_depth(folders: Iterable[tuple[str, ...]]) -> int:
    """Returns how many first parts all folders share."""
    parts = list(zip(*folders, strict=False))
    return next((n for n, names in enumerate(parts) if len(set(names)) > 1), len(parts))


def load(selected: Selected, vocabulary_file: files.AnyPath | None = None) -> checkpoints.Model:
    """Returns the model of a selected checkpoint, read into memory; arguments, layouts and exceptions are those of `open_model`."""
    model = open_model(selected, vocabulary_file)
    return dataclasses.replace(model, params=stored.materialise(model.params))


def open_model(
    selected: Selected, vocabulary_file: files.AnyPath | None = None
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
    named = vocabulary_file or weights.vocabulary_file
    # SeqIO and the report open it, too: a copy where it is in a bucket.
    vocabulary = _local_vocabulary(named) if named else _vocabulary_beside(selected.path)
    recorded = weights.layout == conversion.OURS and vocabulary_file is None
    if vocabulary.is_file() and not recorded:
        # Evaluation uses no extra ids, and T5X's checkpoints do not tell how many there are.
        conversion.check_vocabulary(vocabulary, 0, config.vocab_size)
    return checkpoints.Model(
        config, params, vocabulary, weights.extra_ids, selected.step, selected.path
    )


def _local_vocabulary(path: files.AnyPath) -> pathlib.Path:
    path = files.as_path(path)
    if isinstance(path, pathlib.Path):
        return path
    copy = model_files.local_file(path.parent, path.name)
    if copy is None:
        raise FileNotFoundError(f"inference: no vocabulary at {path}")
    return copy


def _vocabulary_beside(path: files.Path) -> pathlib.Path:
    for folder in (path, path.parent):
        found = model_files.local_file(folder, model_files.VOCABULARY_FILE)
        if found is not None:
            return found
    published = hub.bucket_vocabulary(str(path))
    found = model_files.local_file(*published) if published else None
    if found is not None:
        return found
    other = model_files.local_file(path, "tokenizer.json")
    instead = ", only tokenizer.json, which SentencePiece does not read" if other else ""
    raise FileNotFoundError(
        f"inference: the checkpoint {path} has no {model_files.VOCABULARY_FILE}{instead}; pass --vocab=FILE (T5's is "
        "t5/spiece.model of the benchmark folder), or copy the SentencePiece model there"
    )


def _is_weights_file(path: files.Path) -> bool:
    named = path.name in _WEIGHT_FILES or _STEP_NAME.fullmatch(path.name)
    return bool(named) and path.is_file()


def _step_in(name: str) -> int:
    found = _STEP_NAME.fullmatch(name)
    return int(found[1]) if found else 0


def _latest(path: files.Path) -> Selected:
    if path.is_file() and path.name in _WEIGHT_FILES:
        path = path.parent
    if path.is_file():
        return Selected(path, _step_in(path.name))
    if (path / _HUGGINGFACE_CONFIG).exists():
        return Selected(path, 0)
    run, step = checkpoints.locate(path)
    return _step(run, step)


def _step(run: files.Path, step: int) -> Selected:
    return Selected(run / f"{checkpoints.train_state.STEP_PREFIX}_{step}", step)


def _steps_of(path: files.Path, steps: str | None) -> list[Selected]:
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
