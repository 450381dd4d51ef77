"""`time.json` of a run folder: what the seconds of each start were spent on, and what of them was lost.

    {"schema_version": 1, "starts": [{
      "start": 1, "began": "2026-11-27T08:00:00+00:00", "from_step": 0, "until_step": 412,
      "seconds": {"starting": 21.5, "compiling": 40.2, "training": 300.0, ..., "lost": 31.0},
      "lost_steps": 12, "ended": "done", "stopped", the name of an error, or null: it still runs, or was killed}]}

The file is written at checkpoints, at the end, and between them with a line of metrics when ten seconds have passed, so that a
killed start's last seconds may be missing; its steps are those of `metrics.jsonl`. What it did after the checkpoint that the next start goes on from is lost: the next start says so, with
the seconds that this checkpoint remembers. Time in which no process ran is nobody's.

Apart from `stopwatch.py`, which needs JAX, so that the report does not.
"""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from cotdistill_jax import files
from cotdistill_jax.train.metrics_file import read_metrics

TIME_FILE = "time.json"
SCHEMA_VERSION = 1
LOST = "lost"
DONE, STOPPED = "done", "stopped"
_WRITE_SECONDS = 10.0


@dataclasses.dataclass
class Start:
    """One start of a run; attributes as in the file."""

    start: int
    began: str
    from_step: int
    until_step: int
    seconds: dict[str, float]
    lost_steps: int = 0
    ended: str | None = None


def read(folder: files.Path) -> list[Start]:
    """Returns the starts of a run, oldest first; none where the folder has no `time.json`.

    Raises:
      ValueError: the file is not JSON, or of another schema version.
    """
    path = folder / TIME_FILE
    if not path.exists():
        return []
    content = files.read_json(path, "train")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"train: {path} has schema version {content.get('schema_version')}, expected {SCHEMA_VERSION}; remove it, only the "
            "division of the run's time is in it"
        )
    return [Start(**start) for start in content["starts"]]


class RunTime:
    """The file, written by the start that is under way; a context manager that writes down an error which ends it."""

    def __init__(
        self,
        folder: files.Path,
        step: int,
        notes: Mapping[str, Any] | None,
        seconds: Callable[[], Mapping[str, float]],
        write: bool = True,
    ) -> None:
        """Adds a start that goes on from `step`, after counting what those before have lost.

        Args:
          folder: the run folder.
          step: steps of the checkpoint it goes on from; 0 without one.
          notes: what `notes` returned when that checkpoint was saved; None where it does not say.
          seconds: returns those of each part since the start began.
          write: whether this process writes the file.
        """
        self._seconds = seconds
        self._folder = folder
        self._write = write
        self._starts = read(folder) if write else []
        if self._starts:
            logged = [int(line["step"]) for line in read_metrics(folder)[-1:]]
            self._starts[-1].until_step = max([self._starts[-1].until_step, *logged])
        if notes or not step:
            _count_lost(self._starts, step, notes or {"start": 0, "seconds": {}})
        age = datetime.timedelta(seconds=sum(seconds().values()))
        began = (datetime.datetime.now(datetime.UTC) - age).isoformat(timespec="seconds")
        self._now = Start(len(self._starts) + 1, began, step, step, {})
        self._starts.append(self._now)
        self._written = float("-inf")

    def __enter__(self) -> Self:
        """Returns itself, the start written down."""
        self.update(self._now.until_step, at_once=True)
        return self

    def __exit__(self, error: type[BaseException] | None, *rest: object) -> None:
        """Writes the name of an error."""
        if error is not None:
            with contextlib.suppress(OSError):  # which may be the error itself: a full disk
                self.update(self._now.until_step, ended=error.__name__)

    def update(self, step: int, ended: str | None = None, at_once: bool = False) -> None:
        """Takes how far the start came; writes the file where that is due.

        Args:
          step: steps done.
          ended: how, at its end.
          at_once: whether to write although the last time is only just past.
        """
        self._now.until_step, self._now.ended = step, ended
        # As the file has them, so that what is said now and read later agree to the last digit.
        self._now.seconds = {part: round(value, 3) for part, value in self._seconds().items()}
        now = time.monotonic()
        if self._write and (ended or at_once or now - self._written > _WRITE_SECONDS):
            self._written = now
            starts = [dataclasses.asdict(start) for start in self._starts]
            files.write_json_atomically(
                self._folder / TIME_FILE, {"schema_version": SCHEMA_VERSION, "starts": starts}
            )

    def notes(self) -> dict[str, Any]:
        """Returns what a checkpoint must remember of the start that saves it, as of the last `update`."""
        return {"start": self._now.start, "seconds": dict(self._now.seconds)}

    def summary(self) -> str:
        """Returns the division of this start's time, and of all starts' where there are several, in one line."""
        return in_words(self._starts)


def in_words(starts: Sequence[Start]) -> str:
    """Returns how the time of the last start divides, and that of all where there are several.

    Example: "312 s: 80 % training, 12 % compiling, 8 % saving; all 2 starts 400 s: 70 % training, ..., 5 % lost (12 steps)".
    """
    said = _division(starts[-1:])
    if len(starts) > 1:
        said += f"; all {len(starts)} starts {_division(starts)}"
    return said


def totals(starts: Sequence[Start]) -> dict[str, float]:
    """Returns the seconds of each part over several starts, the most first."""
    sums: dict[str, float] = {}
    for start in starts:
        for part, seconds in start.seconds.items():
            sums[part] = sums.get(part, 0.0) + seconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _division(starts: Sequence[Start]) -> str:
    sums = totals(starts)
    total = sum(sums.values())
    if not total:
        return "0 s"
    steps = sum(start.lost_steps for start in starts)
    shares = [
        f"{100 * seconds / total:.3g} % {part}" + (f" ({steps:,} steps)" if part == LOST else "")
        for part, seconds in sums.items()
        if seconds > 0.0005 * total
    ]
    return f"{total:,.0f} s: {', '.join(shares)}"


def _count_lost(starts: Sequence[Start], step: int, notes: Mapping[str, Any]) -> None:
    """Moves to `LOST` what earlier starts did after the checkpoint of `step`."""
    for start in starts[max(notes["start"] - 1, 0) :]:
        if start.ended in (DONE, STOPPED) and start.until_step <= step:
            continue
        kept = dict(notes["seconds"]) if start.start == notes["start"] else {}
        lost = sum(start.seconds.values()) - sum(kept.values())
        start.seconds = {**kept, LOST: round(max(lost, 0.0), 3)}
        start.lost_steps = max(start.until_step - max(step, start.from_step), 0)
