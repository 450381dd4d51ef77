"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard, Weights & Biases if asked for, and a progress bar.

`metrics.jsonl` has one line per logged step, {"step": ..., "loss": ..., ...}. A run that continues from step N first
removes what the interrupted run had written after N, from the lines and from TensorBoard's events, as it writes them again.
A line is on disk before the checkpoint of its step, so none is missing either.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Self

import tensorflow as tf
from clu import metric_writers
from tensorboard.compat.proto import event_pb2
from tqdm import tqdm

from cotdistill_jax.train import weights_and_biases
from cotdistill_jax.train.metrics_file import METRICS_FILE, read_metrics

EVENTS_FOLDER = "tensorboard"


class MetricsLog:
    """Writes scalars of a run; use as a context manager."""

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        first_step: int,
        total_steps: int,
        *,
        tensorboard: bool = True,
        progress: bool = True,
        first_host: bool = True,
    ) -> None:
        """Opens the files of a run that stands at `first_step`.

        Args:
          model_dir: the run folder; TensorBoard events go to `tensorboard/` in it.
          first_step: steps done so far; later lines of an earlier attempt are removed.
          total_steps: length of the run, for the bar's remaining time.
          tensorboard: whether to write TensorBoard events.
          progress: whether to show the bar.
          first_host: whether this host writes and shows anything at all.
        """
        folder = pathlib.Path(model_dir)
        events = folder / EVENTS_FOLDER
        path = folder / METRICS_FILE if first_host else pathlib.Path(os.devnull)
        if first_host:
            _drop_lines_after(path, first_step)
            _drop_events_after(events, first_step)
        self._first_host = first_host
        self._file = path.open("a", encoding="utf-8")
        self._events = (
            metric_writers.SummaryWriter(os.fspath(events)) if tensorboard and first_host else None
        )
        self._wandb = weights_and_biases.start(folder) if first_host else None
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            disable=not (progress and first_host),
            mininterval=1.0,
        )

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the files."""
        self._bar.close()
        self._file.close()
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.finish()

    def advance(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Moves the bar to `step`."""
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(
            f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s", refresh=False
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line, on disk when this returns."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        if self._first_host:
            os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.write_scalars(step, scalars)
            self._events.flush()
        if self._wandb is not None:
            self._wandb.log(dict(scalars), step=step)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._first_host:
            self._bar.write(text)


def _drop_lines_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    partial = path.with_suffix(".part")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    partial.replace(path)


def _drop_events_after(folder: pathlib.Path, step: int) -> None:
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept = [
            record
            for record in _whole_records(path)
            if event_pb2.Event.FromString(record).step <= step
        ]
        partial = path.with_name(
            f".{path.name}"
        )  # a name that neither TensorBoard nor the next start reads
        with tf.io.TFRecordWriter(os.fspath(partial)) as writer:
            for record in kept:
                writer.write(record)
        partial.replace(path)


def _whole_records(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the records of an event file up to the torn one that a kill may leave at its end."""
    records = tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator()
    while True:
        try:
            yield next(records)
        except (StopIteration, tf.errors.DataLossError):
            return
