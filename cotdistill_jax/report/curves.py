"""Training curves, and their numbers: loss, accuracy, throughput."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from cotdistill_jax.report.figures import SERIES, Theme

Metrics = Sequence[Mapping[str, float]]

_PANELS = (
    ("loss per target token", ("loss", "nll"), None),
    ("token accuracy", ("token_accuracy",), PercentFormatter(1.0)),
    ("tokens per second", ("tokens_per_second",), StrMethodFormatter("{x:,.0f}")),
    ("learning rate", ("learning_rate",), None),
    ("gradient norm", ("grad_norm",), None),
    (
        "share of target tokens with a teacher",
        ("teacher_share",),
        PercentFormatter(1.0, decimals=1),
    ),
)
_EVALUATION = "eval/"


def series(metrics: Metrics, name: str) -> tuple[list[float], list[float]]:
    """Returns steps and values of one metric, where it was logged.

    Example: `series([{"step": 1, "loss": 2.0}, {"step": 2, "nll": 1.0}], "loss") == ([1], [2.0])`
    """
    logged = [(line["step"], line[name]) for line in metrics if name in line]
    return [step for step, _ in logged], [value for _, value in logged]


def draw_curves(metrics: Metrics, theme: Theme) -> Figure:
    """Returns one panel per kind of number that was logged.

    Raises:
        ValueError: nothing was logged.
    """
    logged = {name for line in metrics for name in line}
    panels = [(title, [n for n in names if n in logged], form) for title, names, form in _PANELS]
    panels = [panel for panel in panels if panel[1]]
    panels += [
        (name.removeprefix(_EVALUATION).replace("/", "\n"), [name], None)
        for name in sorted(logged)
        if name.startswith(_EVALUATION)
    ]
    if not panels:
        raise ValueError("report: no training metrics to draw; the run has logged nothing yet")
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(10.5, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis, (title, names, form) in zip(axes, panels, strict=False):
        _draw_panel(axis, title, [(name, *series(metrics, name)) for name in names])
        if form:
            axis.yaxis.set_major_formatter(form)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    return figure


def _draw_panel(
    axis: Axes, title: str, lines: Sequence[tuple[str, list[float], list[float]]]
) -> None:
    for color, dashes, (name, steps, values) in zip(SERIES, ("-", "--"), lines, strict=False):
        marker = "o" if len(steps) < 3 else None
        axis.plot(steps, values, dashes, color=color, label=name, linewidth=1.4, marker=marker)
    axis.set_title(title, loc="left")
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.grid(True)
    if len(lines) > 1:
        axis.legend()


def summary(metrics: Metrics) -> list[tuple[str, str]]:
    """Returns the numbers that stand beside the curves, as (name, text).

    The throughput is the median over log lines without the first, which holds the compilation.
    """
    training = [line for line in metrics if "loss" in line]
    if not training:
        return []
    first, last = training[0], training[-1]
    steady = training[1:] or training
    rows = [
        ("steps", f"{last['step']:,.0f}"),
        ("loss, first and last line", f"{first['loss']:.4g} → {last['loss']:.4g}"),
    ]
    if "token_accuracy" in last:
        accuracy = f"{first['token_accuracy']:.1%} → {last['token_accuracy']:.1%}"
        rows.append(("token accuracy, first and last line", accuracy))
    for name, title in (("tokens_per_second", "tokens"), ("steps_per_second", "steps")):
        values = [line[name] for line in steady if name in line]
        if values:
            rows.append((f"{title} per second, median", f"{statistics.median(values):,.4g}"))
    for name, title in (
        ("num_target_tokens", "target tokens trained on"),
        ("num_examples", "examples trained on"),
    ):
        if name in last:
            rows.append((title, f"{sum(line.get(name, 0.0) for line in training):,.0f}"))
    return rows
