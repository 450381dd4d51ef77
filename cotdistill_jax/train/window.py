"""The steps between two lines of metrics: their means, their faults, and what a checkpoint must remember of them.

A checkpoint may fall between two lines. It then carries the steps since the last line (`Window.notes`), so that the line
of a continued run says what that of an uninterrupted one says.
"""

import collections
import time
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
import optax

from cotdistill_jax import files
from cotdistill_jax.train import incidents
from cotdistill_jax.train.metrics_log import MetricsLog

OnNonfinite = Literal["stop", "skip"]
_MOST_SKIPPED_IN_A_ROW = 10
_REMEMBERED_LOSSES = 100
_FEWEST_LOSSES = 20
_SPIKE_DEVIATIONS = 8.0
_SMALLEST_DEVIATION = (
    0.01  # of the median: a plateau of equal losses is no reason to cry at the next one
)


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is NaN or infinite; the last checkpoint is from before."""


class Window:
    """Metrics of the steps since the last line; they stay on the device until `check`."""

    def __init__(
        self,
        folder: files.Path,
        log: MetricsLog,
        mixture_or_task_name: str,
        schedule: optax.Schedule | None = None,
        on_nonfinite: OnNonfinite = "stop",
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Goes on from what a checkpoint remembers.

        Args:
          folder: the run folder, for batches worth a look.
          log: where lines go.
          mixture_or_task_name: where the batches come from.
          schedule: step -> learning rate, only to log it.
          on_nonfinite: whether a NaN or infinite loss or gradient ends the run, or only that step is left out.
          notes: of the checkpoint that the run continues from.
        """
        remembered = notes or {"steps": [], "seconds": 0.0, "losses": [], "skipped_in_a_row": 0}
        self._folder = folder
        self._log = log
        self._mixture_or_task_name = mixture_or_task_name
        self._schedule = schedule
        self._on_nonfinite = on_nonfinite
        self._steps: list[dict[str, float]] = list(remembered["steps"])
        self._losses = collections.deque(remembered["losses"], maxlen=_REMEMBERED_LOSSES)
        self._skipped_in_a_row: int = remembered["skipped_in_a_row"]
        self._seconds: float = remembered["seconds"]
        self._pending: list[tuple[int, Any, Mapping[str, np.ndarray]]] = []
        self.restart_clock()

    def pause_clock(self) -> None:
        """Counts the time since the clock was started to the steps; what follows, up to `restart_clock`, is left out."""
        jax.block_until_ready([metrics for _, metrics, _ in self._pending])
        self._read_clock()

    def restart_clock(self) -> None:
        """Starts the clock of the steps."""
        self._since = time.monotonic()

    def add(self, done: int, metrics: Any, batch: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics of step `done`, still being computed, and the batch it read."""
        self._pending.append((done, metrics, batch))

    def is_computed(self) -> bool:
        """Returns whether the steps added so far are computed, so that the devices have nothing to do."""
        newest = self._pending[-1][1] if self._pending else {}
        return all(value.is_ready() for value in newest.values())

    def wait_for_all_but_newest(self) -> None:
        """Waits until the newest step is the only one that is not computed yet."""
        jax.block_until_ready([metrics for _, metrics, _ in self._pending[-2:-1]])

    def check(self) -> None:
        """Fetches the metrics of the steps added since; reports NaN, infinite and far too high losses.

        Raises:
          NonFiniteLossError: one is NaN or infinite and the run is to stop, or the tenth in a row was left out.
        """
        fetched = jax.device_get([metrics for _, metrics, _ in self._pending])
        pending, self._pending = self._pending, []
        for (number, _, batch), values in zip(pending, fetched, strict=True):
            scalars = {name: float(value) for name, value in values.items()}
            finite = bool(np.isfinite(scalars["loss"]) and np.isfinite(scalars["grad_norm"]))
            spike = finite and self._is_spike(scalars["loss"])
            scalars["num_skipped_steps"] = float(not finite)
            scalars["num_loss_spikes"] = float(spike)
            self._steps.append(scalars)
            if not finite:
                self._report_nonfinite(number, scalars, batch)
                continue
            if spike:
                self._report_spike(number, scalars, batch)
            self._losses.append(scalars["loss"])
            self._skipped_in_a_row = 0

    def close(self, done: int) -> None:
        """Writes the line of the window that ends with step `done` and starts the next window."""
        self.check()
        self._read_clock()
        kept = [step for step in self._steps if not step["num_skipped_steps"]]
        tokens = sum(step["num_target_tokens"] + step["num_input_tokens"] for step in self._steps)
        names = self._steps[0]
        means = [name for name in names if kept and not name.startswith("num_")]
        totals = [name for name in names if name.startswith("num_")]
        scalars = {name: float(np.mean([step[name] for step in kept])) for name in means}
        scalars |= {name: float(np.sum([step[name] for step in self._steps])) for name in totals}
        scalars["steps_per_second"] = len(self._steps) / self._seconds
        scalars["tokens_per_second"] = tokens / self._seconds
        if self._schedule is not None:
            scalars["learning_rate"] = float(self._schedule(done - 1))
        self._log.write(done, scalars)
        self._log.advance(done, scalars.get("loss", float("nan")), scalars["tokens_per_second"])
        self._steps, self._seconds = [], 0.0

    def notes(self) -> dict[str, Any]:
        """Returns what a checkpoint after the last added step must remember; JSON values."""
        self.check()
        self._read_clock()
        return {
            "steps": self._steps,
            "seconds": self._seconds,
            "losses": list(self._losses),
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def _read_clock(self) -> None:
        now = time.monotonic()
        self._seconds += now - self._since
        self._since = now

    def _is_spike(self, loss: float) -> bool:
        if len(self._losses) < _FEWEST_LOSSES:
            return False
        median = float(np.median(self._losses))
        spread = 1.4826 * float(np.median(np.abs(np.asarray(self._losses) - median)))
        return loss > median + _SPIKE_DEVIATIONS * max(spread, _SMALLEST_DEVIATION * abs(median))

    def _report_spike(
        self, number: int, scalars: Mapping[str, float], batch: Mapping[str, np.ndarray]
    ) -> None:
        path = self._save_batch("loss_spike", number, scalars, batch)
        self._log.say(
            f"train: loss spike at step {number}: {scalars['loss']:.4g}, median of the {len(self._losses)} steps before "
            f"{np.median(self._losses):.4g}; its batch is in {path}"
        )

    def _report_nonfinite(
        self, number: int, scalars: Mapping[str, float], batch: Mapping[str, np.ndarray]
    ) -> None:
        path = self._save_batch("nonfinite", number, scalars, batch)
        self._skipped_in_a_row += 1
        what = f"loss {scalars['loss']}, gradient norm {scalars['grad_norm']} at step {number}"
        if self._on_nonfinite == "stop":
            raise NonFiniteLossError(
                f"train: {what}; no checkpoint was written since; its batch is in {path}. Lower LEARNING_RATE, raise "
                "WARMUP_STEPS, clip the gradient, or leave such steps out with ON_NONFINITE = 'skip'"
            )
        if self._skipped_in_a_row >= _MOST_SKIPPED_IN_A_ROW:
            raise NonFiniteLossError(
                f"train: {what}, the {self._skipped_in_a_row}th such step in a row: nothing is learnt any more; the "
                f"batches are in {path.parent}. Lower LEARNING_RATE or clip the gradient"
            )
        self._log.say(f"train: {what}: step left out; its batch is in {path}")

    def _save_batch(
        self,
        kind: str,
        number: int,
        scalars: Mapping[str, float],
        batch: Mapping[str, np.ndarray],
    ) -> files.Path:
        """Writes the batch, on the first host only, and returns where."""
        path = incidents.path_of(self._folder, number, kind)
        if jax.process_index() == 0:
            incidents.write(path, number, scalars, batch, self._mixture_or_task_name)
        return path
