"""What specialising costs: accuracy on the trained kind of problem against everything else, over all checkpoints.

| family | benchmarks |
|---|---|
| in distribution | GSM8K, arith |
| other maths | MultiArith, ASDiv, SVAMP |
| general | BIG-Bench Hard: `bbh`, or the mean of the tasks that were evaluated |

A family's accuracy is the unweighted mean over its benchmarks, by their headline rules, with one prompt mode.

Source: Fu et al. 2023 (arXiv 2301.12726), section 4: BBH falls to near chance while the maths sets rise.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cotdistill_jax.inference import Result
from cotdistill_jax.report.figures import SERIES, Theme
from cotdistill_jax.report.run_files import Evaluation

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "in distribution": ("gsm8k", "arith"),
    "other maths": ("multiarith", "asdiv", "svamp"),
    "general (BBH)": ("bbh",),
}
_IN, _OTHER, _GENERAL = FAMILIES
_MARKERS = "osD^vP*X"


@dataclasses.dataclass(frozen=True)
class Point:
    """One checkpoint with one prompt mode.

    Attributes:
        step: training step of the checkpoint.
        prompt: prompt mode.
        accuracy: per family that was evaluated, in [0, 1].
    """

    step: int
    prompt: str
    accuracy: Mapping[str, float]


def points(evaluations: Iterable[Evaluation]) -> list[Point]:
    """Returns a point per checkpoint and prompt mode, by prompt, then step."""
    found = []
    for evaluation in evaluations:
        for prompt in dict.fromkeys(result.prompt for result in evaluation.results):
            of_prompt = [r for r in evaluation.results if r.prompt == prompt]
            means = {name: _mean(of_prompt, members) for name, members in FAMILIES.items()}
            accuracy = {name: value for name, value in means.items() if value is not None}
            found.append(Point(evaluation.step, prompt, accuracy))
    return sorted(found, key=lambda point: (point.prompt, point.step))


def _mean(results: Sequence[Result], members: Sequence[str]) -> float | None:
    by_name = {result.benchmark: result.score.accuracy for result in results}
    if "bbh" in by_name:  # already the mean of its tasks
        by_name = {name: a for name, a in by_name.items() if not name.startswith("bbh/")}
    values = [a for name, a in by_name.items() if name.split(":")[0].split("/")[0] in members]
    return statistics.mean(values) if values else None


def can_draw(found: Sequence[Point]) -> bool:
    """Returns whether any point has the trained kind of problem and something else."""
    return any(_IN in p.accuracy and len(p.accuracy) > 1 for p in found)


def draw_trade_off(found: Sequence[Point], theme: Theme) -> Figure:
    """Returns other maths and BBH against the trained kind of problem; arrows lead from checkpoint to checkpoint.

    Raises:
        ValueError: no point has two families.
    """
    others = [n for n in (_OTHER, _GENERAL) if any({_IN, n} <= p.accuracy.keys() for p in found)]
    if not others:
        raise ValueError(
            "report: no checkpoint was evaluated on GSM8K or arith and on another kind of benchmark"
        )
    figure = Figure(figsize=(5.2 * len(others), 4.0), layout="constrained")
    for axis, other in zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True):
        for number, prompt in enumerate(dict.fromkeys(p.prompt for p in found)):
            path = [p for p in found if p.prompt == prompt and {_IN, other} <= p.accuracy.keys()]
            if not path:  # a prompt of one kind of benchmark alone
                continue
            color, marker = SERIES[number % len(SERIES)], _MARKERS[number % len(_MARKERS)]
            _draw_path(axis, path, other, color, marker)
        _finish(axis, f"accuracy, {_IN}", f"accuracy, {other}")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _draw_path(axis: Axes, path: Sequence[Point], other: str, color: str, marker: str) -> None:
    places = [(point.accuracy[_IN], point.accuracy[other]) for point in path]
    axis.plot(*zip(*places, strict=True), marker, color=color, label=path[0].prompt)
    for begin, end in itertools.pairwise(places):
        axis.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": color, "alpha": 0.6})
    for point, place in zip(path, places, strict=True):
        axis.annotate(f"{point.step:,}", place, (4, 5), textcoords="offset points", fontsize=8)


def draw_by_step(evaluations: Sequence[Evaluation], theme: Theme) -> Figure:
    """Returns accuracy with its 95 % interval by training step, one panel per benchmark, one line per prompt.

    Raises:
        ValueError: nothing was evaluated.
    """
    results = [(e.step, r) for e in evaluations for r in e.results]
    names = list(dict.fromkeys(r.benchmark for _, r in results))
    if not names:
        raise ValueError("report: no evaluation to draw")
    prompts = list(dict.fromkeys(r.prompt for _, r in results))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(6.5, 3.6 * columns), 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    lines: dict[str, Any] = {}
    for axis, name in zip(axes, names, strict=False):
        for number, prompt in enumerate(prompts):
            scored = [(s, r) for s, r in results if (r.benchmark, r.prompt) == (name, prompt)]
            if scored:
                lines[prompt] = _draw_scores(axis, scored, number, len(prompts))
        _finish(axis, "step", "accuracy", legend=False)
        axis.set_title(name, loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_ylim(-0.02, 1.02)
    for axis in axes[len(names) :]:
        axis.axis("off")
    figure.legend(lines.values(), lines.keys(), loc="outside right upper")
    return figure


def _draw_scores(axis: Axes, scored: Sequence[tuple[int, Result]], number: int, of: int) -> Any:
    """Draws one line; lines are a little apart so that their intervals do not hide each other."""
    width = max(step for step, _ in scored) or 1
    steps = [step + width * 0.012 * (number - (of - 1) / 2) for step, _ in scored]
    scores = [result.score for _, result in scored]
    below = [score.accuracy - score.interval_95[0] for score in scores]
    above = [score.interval_95[1] - score.accuracy for score in scores]
    return axis.errorbar(
        steps,
        [score.accuracy for score in scores],
        yerr=(below, above),
        color=SERIES[number % len(SERIES)],
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=5,
        linewidth=1.2,
        capsize=3,
    )


def _finish(axis: Axes, x_label: str, y_label: str, legend: bool = True) -> None:
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.grid(True)
    if legend:
        axis.legend()
