"""Prediction files: one JSON line per question, written as the answers come, safe against interruption.

| field | meaning |
|---|---|
| id, benchmark, question, gold | as in `benchmarks.Question` |
| prompt | prompt mode |
| sample_id | number of the sample among those of its question; 0 for greedy decoding |
| text | what the model wrote |
| extracted | per rule the answer it reads in the text, or null |
| correct | per rule whether that is right |
| log_prob | log-probability of the whole sequence under the model, natural logarithm; null where unknown |
| num_tokens | tokens generated, EOS included; null where unknown |
| finished | whether the model ended the text itself, not the length limit |

Every batch is one write (`files.LineFile`). An interruption can tear the last line at most; opening the file again drops it, and ends a
whole one.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

from cotdistill_jax import files
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import scoring


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One answered question; the attributes are the fields of the module's table."""

    id: str
    benchmark: str
    prompt: str
    sample_id: int
    question: str
    gold: str
    text: str
    extracted: dict[str, str | None]
    correct: dict[str, bool]
    log_prob: float | None
    num_tokens: int | None
    finished: bool

    @property
    def key(self) -> tuple[str, int]:
        """What must be unique in a file: (id, sample_id)."""
        return self.id, self.sample_id

    def to_line(self) -> bytes:
        """Returns the prediction as one line of JSON, newline included."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False).encode() + b"\n"


_FIELDS = {field.name: field for field in dataclasses.fields(Prediction)}


def graded(
    question: Question,
    prompt: str,
    text: str,
    *,
    log_prob: float | None,
    num_tokens: int | None,
    finished: bool,
    sample_id: int = 0,
) -> Prediction:
    """Returns the prediction of `text` for a question, graded by every rule of its benchmark."""
    extracted, correct = scoring.grade(text, question.gold, question.benchmark)
    return Prediction(
        question.id,
        question.benchmark,
        prompt,
        sample_id,
        question.question,
        question.gold,
        text,
        extracted,
        correct,
        log_prob,
        num_tokens,
        finished,
    )


def regraded(prediction: Prediction) -> Prediction:
    """Returns the prediction with its saved text graded anew by every rule of its benchmark."""
    extracted, correct = scoring.grade(prediction.text, prediction.gold, prediction.benchmark)
    return dataclasses.replace(prediction, extracted=extracted, correct=correct)


def read(path: files.AnyPath) -> list[Prediction]:
    """Returns the predictions of a file, in file order; a torn last line is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, a line is no prediction, or a question has one sample twice; the message names file and line.
    """
    found: dict[tuple[str, int], Prediction] = {}
    for number, record in files.read_json_lines(path, "inference", growing=True):
        prediction = _from_record(record, f"inference: {path} line {number}")
        if prediction.key in found:
            raise ValueError(
                f"inference: {path} line {number}: {prediction.id} (sample {prediction.sample_id}) was already "
                "answered above; remove "
                "one of the two lines"
            )
        found[prediction.key] = prediction
    return list(found.values())


def _from_record(record: Any, where: str) -> Prediction:
    if not isinstance(record, dict) or record.keys() != _FIELDS.keys():
        got = sorted(record) if isinstance(record, dict) else record
        raise ValueError(f"{where}: expected the fields {sorted(_FIELDS)}, got {got}")
    return Prediction(**record)


class PredictionWriter:
    """Appends predictions to a file; use as a context manager.

    Attributes:
        path: the file.
        done: what the file holds, by (id, sample_id).
    """

    def __init__(self, path: files.AnyPath) -> None:
        """Opens the file, made where missing; a torn last line is removed from it.

        Raises:
            ValueError: the file holds something else than predictions.
        """
        self.path = files.as_path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self.path.write_bytes(b"")
        self.done = {prediction.key: prediction for prediction in read(self.path)}
        self._lines = files.LineFile(self.path)

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Writes predictions; when this returns they are kept.

        Raises:
            OSError: the disk is full or the like. What was written before this call is kept, and nothing of
                this call; the message says what to do.
        """
        batch = list(predictions)
        try:
            self._lines.append(b"".join(prediction.to_line() for prediction in batch))
        except OSError as error:
            raise OSError(
                error.errno,
                f"inference: cannot write to {self.path}: {error.strerror or error}. Its {len(self.done)} predictions are "
                "kept; make room and run the same command again to go on from there",
            ) from error
        self.done.update((prediction.key, prediction) for prediction in batch)

    def __enter__(self) -> Self:
        """Returns the writer."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the file."""
        self._lines.close()


def sort_file(path: files.AnyPath, ids: Sequence[str]) -> list[Prediction]:
    """Puts the lines of a file in the order of the questions `ids`, then of samples, and returns its predictions.

    The file is replaced at once, so that an interruption leaves the old or the new one.

    Raises:
        KeyError: the file answers a question that is not among `ids`.
        OSError: the disk is full or the like; the file is as it was.
    """
    path = files.as_path(path)
    found = read(path)
    place = {id_: number for number, id_ in enumerate(ids)}
    wanted = sorted(found, key=lambda p: (place[p.id], p.sample_id))
    if wanted != found:
        try:
            files.replace_lines(path, b"".join(prediction.to_line() for prediction in wanted))
        except OSError as error:
            raise OSError(
                error.errno,
                f"inference: cannot write {path} in the order of its questions: {error.strerror or error}. Its {len(found)} "
                "predictions are kept; make room and run the same command again",
            ) from error
    return wanted
