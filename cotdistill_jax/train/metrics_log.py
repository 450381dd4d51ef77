"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard, Weights & Biases if asked for, and a progress bar.

`metrics.jsonl` has one line per logged step, {"step": ..., "loss": ..., ...}. A run that continues from step N first
removes what the interrupted run had written after N, from the lines and from TensorBoard's events, as it writes them again.
A line is kept before the checkpoint of its step, so none is missing either. In a bucket TensorFlow uploads a file of events whole
whenever it is flushed: there that is done every 30 s and before a checkpoint.
"""

import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Self

import tensorflow as tf
from clu import metric_writers
from tensorboard.compat.proto import event_pb2
from tqdm import tqdm

from cotdistill_jax import files
from cotdistill_jax.train import weights_and_biases
from cotdistill_jax.train.metrics_file import METRICS_FILE, read_metrics

EVENTS_FOLDER = "tensorboard"
_FLUSH_IN_BUCKET_S = 30.0


class MetricsLog:
    """Writes scalars of a run; use as a context manager."""

    def __init__(
        self,
        model_dir: files.AnyPath,
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
        folder = files.as_path(model_dir)
        events = folder / EVENTS_FOLDER
        self._lines: files.LineFile | None = None
        if first_host:
            _drop_lines_after(folder / METRICS_FILE, first_step)
            _drop_events_after(events, first_step)
            self._lines = files.LineFile(folder / METRICS_FILE)
        self._first_host = first_host
        self._events = (
            metric_writers.SummaryWriter(str(events)) if tensorboard and first_host else None
        )
        self._flush_period = _FLUSH_IN_BUCKET_S if files.is_remote(folder) else 0.0
        self._flushed = time.monotonic()
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
        if self._lines is not None:
            self._lines.close()
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
        """Writes one line, kept when this returns."""
        if self._lines is not None:
            self._lines.append(json.dumps({"step": step, **scalars}).encode() + b"\n")
        if self._events is not None:
            self._events.write_scalars(step, scalars)
            if time.monotonic() - self._flushed >= self._flush_period:
                self.flush()
        if self._wandb is not None:
            self._wandb.log(dict(scalars), step=step)

    def flush(self) -> None:
        """Writes what TensorBoard reads; the lines are written already."""
        if self._events is not None:
            self._events.flush()
            self._flushed = time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._first_host:
            self._bar.write(text)


def _drop_lines_after(path: files.Path, step: int) -> None:
    found = read_metrics(path.parent)
    kept = [line for line in found if line["step"] <= step]
    if kept != found:
        content = "".join(json.dumps(line) + "\n" for line in kept)
        files.replace_lines(path, content.encode())


def _drop_events_after(folder: files.Path, step: int) -> None:
    for path in folder.glob("events.out.tfevents.*"):
        with tempfile.TemporaryDirectory() as temporary:
            before, after = pathlib.Path(temporary, "before"), pathlib.Path(temporary, "after")
            before.write_bytes(path.read_bytes())
            with tf.io.TFRecordWriter(os.fspath(after)) as writer:
                for record in _whole_records(before):
                    if event_pb2.Event.FromString(record).step <= step:
                        writer.write(record)
            files.write_atomically(path, after.read_bytes())


def _whole_records(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the records of an event file up to the torn one that a kill may leave at its end."""
    records = tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator()
    while True:
        try:
            yield next(records)
        except (StopIteration, tf.errors.DataLossError):
            return
