"""A run in the terminal while it trains: loss, accuracy, speed, time left and where it went, from the files of its folder alone."""

import dataclasses
import statistics
import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cotdistill_jax import files
from cotdistill_jax.report import run_files
from cotdistill_jax.report.curves import Metrics, series
from cotdistill_jax.train import run_time
from cotdistill_jax.train.metrics_file import read_metrics

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 60
# Log lines over which the speed is taken.
_RECENT = 5
_EVALUATION = "eval/"


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        step: steps done; 0 before the first log line.
        total_steps: length of the run; None where its configuration does not say.
        steps_per_second: median of the last log lines; None before the first.
        seconds_left: estimated; None where it cannot be.
        latest: the last line of training metrics.
        evaluation: the last value of each `eval/` metric.
    """

    step: int
    total_steps: int | None
    steps_per_second: float | None
    seconds_left: float | None
    latest: dict[str, float]
    evaluation: dict[str, float]


def standing(metrics: Metrics, total_steps: int | None) -> Standing:
    """Returns where a run stands.

    Example: at step 50 of 100 with 5 steps a second, `seconds_left` is 10.
    """
    training = [line for line in metrics if "loss" in line]
    latest = dict(training[-1]) if training else {}
    step = int(latest.get("step", 0))
    recent = [line["steps_per_second"] for line in training if "steps_per_second" in line]
    speed = statistics.median(recent[-_RECENT:]) if recent else None
    left = (total_steps - step) / speed if speed and total_steps is not None else None
    evaluation: dict[str, float] = {}
    for line in metrics:
        evaluation.update({k: v for k, v in line.items() if k.startswith(_EVALUATION)})
    return Standing(step, total_steps, speed, left, latest, evaluation)


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Returns values as a line of blocks, from their lowest to their highest; long series are thinned.

    Example: `sparkline([0.0, 1.0, 0.5]) == "▁█▅"`.
    """
    if not values:
        return ""
    stride = -(-len(values) // width)
    kept = values[::stride]
    low, high = min(kept), max(kept)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale + 1e-9)] for value in kept)


def view(folder: files.Path) -> tuple[Group, Standing]:
    """Returns what to show of a run now, and where it stands.

    Args:
        folder: of the training, or one around it.

    Raises:
        FileNotFoundError: no run there.
    """
    training = run_files.find_training(folder) if folder.is_dir() else None
    if training is None:
        raise FileNotFoundError(
            f"watch: {folder} holds no training run yet; pass the MODEL_DIR of `python -m cotdistill_jax.train`"
        )
    config = training / "config.gin"
    macros = run_files.macros(config.read_text(encoding="utf-8")) if config.exists() else {}
    total = macros.get("TRAIN_STEPS", "")
    metrics = read_metrics(training)
    now = standing(metrics, int(total) if total.isdecimal() else None)
    starts = run_time.read(training)
    spent = [Text(run_time.in_words(starts), "dim")] if starts else []
    return Group(_heading(training, now), *_rows(now, metrics), *spent), now


def _heading(training: files.Path, now: Standing) -> Table:
    line = Table.grid(padding=(0, 2))
    of = f" of {now.total_steps:,}" if now.total_steps else ""
    left = "–" if now.seconds_left is None else clock(now.seconds_left)
    bar = ProgressBar(total=now.total_steps or 1, completed=now.step, width=30)
    line.add_row(Text(str(training), "bold"), bar, f"step {now.step:,}{of}", f"left {left}")
    return line


def _rows(now: Standing, metrics: Metrics) -> list[Table | Text]:
    if not now.latest:
        return [Text("nothing logged yet: the first step is being compiled", "dim")]
    table = Table.grid(padding=(0, 2))
    for title, name, form in (
        ("loss", "loss", "{:.4f}"),
        ("token accuracy", "token_accuracy", "{:.2%}"),
        ("tokens/s", "tokens_per_second", "{:,.0f}"),
        ("steps/s", "steps_per_second", "{:.2f}"),
        ("gradient norm", "grad_norm", "{:.3f}"),
    ):
        if name in now.latest:
            line = Text(sparkline(series(metrics, name)[1]), "cyan")
            table.add_row(title, Text(form.format(now.latest[name]), "bold"), line)
    for name, value in now.evaluation.items():
        table.add_row(name.removeprefix(_EVALUATION), Text(f"{value:.4g}", "bold"), "")
    return [table]


def clock(seconds: float) -> str:
    """Returns a time span as text: `clock(3725) == "1:02:05"`."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def watch(
    folder: files.AnyPath,
    console: Console,
    every_seconds: float = 2.0,
    once: bool = False,
) -> None:
    """Shows a run again and again until its last step is done or the reader presses Ctrl-C.

    Args:
        folder: of the run.
        console: where to.
        every_seconds: time between two looks.
        once: show it once and return.

    Raises:
        FileNotFoundError: no run there.
    """
    path = files.as_path(folder)
    shown, now = view(path)
    with Live(shown, console=console, auto_refresh=False) as live:
        while not once and (now.total_steps is None or now.step < now.total_steps):
            time.sleep(every_seconds)
            shown, now = view(path)
            live.update(shown, refresh=True)
