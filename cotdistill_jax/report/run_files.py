"""What a run left on disk, read for the report: training folder, evaluations, corpora.

A run is the training folder itself (`metrics.jsonl`, `config.gin`, ...) with evaluations anywhere below it, or a folder around
it, such as the quickstart's (`run/`, `evaluation/`, `corpora/`). Whatever is missing is reported as missing.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cotdistill_jax import files, inference
from cotdistill_jax.teacher.shards import MANIFEST_NAME
from cotdistill_jax.train import run_time
from cotdistill_jax.train.metrics_file import METRICS_FILE, read_metrics

_RESULTS = "results.json"
_MARKS = (METRICS_FILE, "model.json", "config.gin")
# Folders with thousands of files in which nothing is looked for.
_SKIPPED = re.compile(r"^(checkpoint_\d+|tensorboard|downloads|\..*)$")
_MACRO = re.compile(r"^([A-Z][A-Z0-9_]*) = (\\\n\s*)?(.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results and predictions of one checkpoint.

    Attributes:
        folder: where they lie.
        checkpoint: as `results.json` names it.
        step: its training step.
        results: accuracies.
        manifest: what the predictions were made with.
        prediction_files: one per benchmark and prompt, sorted.
    """

    folder: files.Path
    checkpoint: str
    step: int
    results: list[inference.Result]
    manifest: Mapping[str, Any]
    prediction_files: tuple[files.Path, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything a report shows of a run; empty where the run has no such file.

    Attributes:
        folder: as given.
        training: the folder with the training's files, or None.
        config: resolved gin configuration.
        manifest: command, versions, devices.
        model: dimensions of the network, vocabulary.
        data_counts: per task examples seen, kept, and dropped as too long.
        metrics: lines of `metrics.jsonl`, oldest first.
        starts: of `time.json`, oldest first: how the time of each divides.
        corpora: per TFDS corpus the metadata it was built with.
        evaluations: by step.
    """

    folder: files.Path
    training: files.Path | None
    config: str
    manifest: Mapping[str, Any]
    model: Mapping[str, Any]
    data_counts: Mapping[str, Any]
    metrics: list[dict[str, float]]
    starts: list[run_time.Start]
    corpora: Mapping[str, Any]
    evaluations: list[Evaluation]


def read_run(path: files.AnyPath) -> Run:
    """Returns the run in a folder.

    Raises:
        FileNotFoundError: there is no such folder, or neither training files nor results in it.
        ValueError: a file of it is not JSON, or of another schema version; the message names it.
    """
    folder = files.as_path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"report: {folder} is not a folder; pass the folder of a run")
    found = list(_walk(folder))
    training = find_training(folder)
    evaluations = [_read_evaluation(file.parent) for file in found if file.name == _RESULTS]
    if training is None and not evaluations:
        raise FileNotFoundError(
            f"report: {folder} holds no {_RESULTS} and none of {', '.join(_MARKS)}; expected a folder written by "
            "`python -m cotdistill_jax.train` or `python -m cotdistill_jax.inference`"
        )
    return Run(
        folder=folder,
        training=training,
        config=_text(training, "config.gin"),
        manifest=_json(training, MANIFEST_NAME),
        model=_json(training, "model.json"),
        data_counts=_json(training, "data_counts.json"),
        metrics=read_metrics(training) if training else [],
        starts=run_time.read(training) if training else [],
        corpora={
            files.name_below(file.parent, folder): _read_json(file)
            for file in found
            if file.name == "metadata.json" and (file.parent / "dataset_info.json").exists()
        },
        evaluations=sorted(evaluations, key=lambda e: (e.step, str(e.folder))),
    )


def find_training(folder: files.Path) -> files.Path | None:
    """Returns the folder that holds the training's files: `folder`, or one right below it; None without any."""
    below = [child for child in files.entries(folder) if child.is_dir()]
    for candidate in (folder, *below):
        if any((candidate / name).exists() for name in _MARKS):
            return candidate
    return None


def macros(config: str) -> dict[str, str]:
    """Returns the macros of a resolved gin configuration, name to value as written.

    Example: `macros("BATCH_SIZE = 4\\nloop.train.seed = 0\\n") == {"BATCH_SIZE": "4"}`
    """
    return {name: value for name, _, value in _MACRO.findall(config)}


def _walk(folder: files.Path) -> Iterator[files.Path]:
    """Yields the files below a folder in a fixed order; evaluations may lie in folders named after checkpoints."""
    for child in files.entries(folder):
        if child.is_file():
            yield child
        elif not _SKIPPED.match(child.name) or (child / _RESULTS).exists():
            yield from _walk(child)


def _read_evaluation(folder: files.Path) -> Evaluation:
    head = _read_json(folder / _RESULTS)
    return Evaluation(
        folder=folder,
        results=inference.read_results(folder),
        checkpoint=head["checkpoint"],
        step=head["step"],
        manifest=_json(folder, MANIFEST_NAME),
        prediction_files=tuple(files.entries(folder / "predictions", "*.jsonl")),
    )


def _text(folder: files.Path | None, name: str) -> str:
    path = folder / name if folder else None
    return path.read_text(encoding="utf-8") if path and path.exists() else ""


def _json(folder: files.Path | None, name: str) -> dict[str, Any]:
    exists = folder is not None and (folder / name).exists()
    return _read_json(folder / name) if folder and exists else {}


def _read_json(path: files.Path) -> dict[str, Any]:
    content: dict[str, Any] = files.read_json(path, "report")
    return content
