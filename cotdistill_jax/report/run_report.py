"""The report of a run: one HTML file with configuration, data, curves, results and every prediction."""

import datetime
import functools
import json
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

import cotdistill_jax
from cotdistill_jax import files, inference
from cotdistill_jax.inference.results import outside_vocabulary
from cotdistill_jax.report import (
    curves,
    figures,
    page,
    predictions_table,
    references,
    trade_off,
    watch,
)
from cotdistill_jax.report.run_files import Evaluation, Run, macros, read_run
from cotdistill_jax.teacher.shards import MANIFEST_NAME
from cotdistill_jax.train import run_time

_LINKED = (
    *(
        "config.gin",
        MANIFEST_NAME,
        "model.json",
        "metrics.jsonl",
        "data_counts.json",
        run_time.TIME_FILE,
    ),
    *("tensorboard", "spiece.model"),
)


def write_report(run: files.AnyPath, output: files.AnyPath) -> dict[str, int]:
    """Writes the report of a run and returns what went into it: evaluations, predictions, log lines, bytes.

    Args:
        run: folder of the run, see `run_files`.
        output: the HTML file.

    Raises:
        FileNotFoundError: no run in that folder.
        ValueError: a file of it cannot be read; the message names it.
    """
    found = read_run(run)
    target = files.as_path(output)
    table = predictions_table.table(found.evaluations)
    content = page.render(
        "report.html.jinja", "predictions.js", **_values(found, target.parent, table)
    )
    page.write(content, target)
    return {
        "evaluations": len(found.evaluations),
        "predictions": len(table["rows"]),
        "with_token_probs": predictions_table.count_with_tokens(table["rows"]),
        "log_lines": len(found.metrics),
        "bytes": len(content.encode()),
    }


def _values(run: Run, beside: files.Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of the template."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {
        "title": f"Run {run.folder}",
        "made": now,
        "command": f"python -m cotdistill_jax.report --run={run.folder}",
        "version": cotdistill_jax.__version__,
        "folder": str(run.folder),
        **_results(run.evaluations),
        **_references(run.evaluations),
        **_pictures(run),
        **_time(run.starts),
        "num_predictions": len(table["rows"]),
        "num_with_tokens": predictions_table.count_with_tokens(table["rows"]),
        "prediction_data": page.json_for_page(table),
        "data_counts": [_counts(task, entry) for task, entry in run.data_counts.items()],
        "corpora": [(name, _facts(entry)) for name, entry in run.corpora.items()],
        "manifests": _manifests(run),
        "macros": list(macros(run.config).items()),
        "config": run.config,
        "artefacts": _artefacts(run, beside),
    }


def _results(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    results = [(e.step, result) for e in evaluations for result in e.results]
    return {
        "results": [_result_row(step, result) for step, result in results],
        "outside_vocabulary": dict.fromkeys(outside_vocabulary([result for _, result in results])),
        "headlines": ", ".join(dict.fromkeys(result.headline for _, result in results)),
    }


def _result_row(step: int, result: inference.Result) -> dict[str, Any]:
    best = result.score
    low, high = best.interval_95
    others = {rule: s for rule, s in result.scores.items() if rule != result.headline}
    return {
        "step": f"{step:,}",
        "benchmark": result.benchmark,
        "prompt": result.prompt,
        "n": f"{best.n:,}",
        "accuracy": f"{best.accuracy:.1%}",
        "interval": f"{low:.1%} to {high:.1%}",
        "unparsed": f"{best.unparsed:,}",
        "unfinished": f"{result.unfinished:,}",
        "others": ", ".join(f"{rule} {score.accuracy:.1%}" for rule, score in others.items()),
    }


def _references(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Returns the printed numbers for the run's benchmarks, or all of them where it has none of these."""
    benchmarks = dict.fromkeys(r.benchmark for e in evaluations for r in e.results)
    fitting = dict.fromkeys(r for name in benchmarks for r in references.for_benchmark(name))
    chosen = tuple(fitting) or references.REFERENCES
    note = (
        "Printed accuracies for the benchmarks of this run, to hold it against; caveats apply."
        if fitting
        else "None of them is for a benchmark of this run; they are listed for orientation."
    )
    return {
        "references": [_reference_row(reference) for reference in chosen],
        "references_open": bool(fitting),
        "reference_note": note,
        "reference_source": references.SOURCE,
    }


def _reference_row(reference: references.Reference) -> dict[str, Any]:
    bounds = [
        inference.wilson_interval(round(percent * reference.n / 100), reference.n)[side]
        for side, percent in enumerate((reference.low, reference.high))
    ]
    return {
        "benchmark": reference.benchmark,
        "model": reference.model,
        "prompt": reference.prompt,
        "n": f"{reference.n:,}",
        "accuracy": reference.accuracy,
        "interval": f"{bounds[0]:.1%} to {bounds[1]:.1%}",
        "caveat": reference.caveat,
    }


def _pictures(run: Run) -> dict[str, Any]:
    """Returns the figures that this run has numbers for; the others are None."""
    points = trade_off.points(run.evaluations)
    steps = functools.partial(trade_off.draw_by_step, run.evaluations)
    against = functools.partial(trade_off.draw_trade_off, points)
    training = functools.partial(curves.draw_curves, run.metrics)
    return {
        "training": curves.summary(run.metrics),
        "curves": _inline(training, "Training curves") if run.metrics else None,
        "by_step": _inline(steps, "Accuracy by step") if points else None,
        "trade_off": _inline(against, "Trade-off") if trade_off.can_draw(points) else None,
    }


def _time(starts: Sequence[run_time.Start]) -> dict[str, Any]:
    """Returns the table of where the time went: a row per start, and one for all of them; parts in the order of their sums."""
    sums = run_time.totals(starts)
    parts = [part for part, seconds in sums.items() if seconds]
    rows = [
        (
            f"{start.start}",
            start.began.replace("T", " ").removesuffix("+00:00"),
            f"{start.from_step:,} to {start.until_step:,}",
            (start.ended or "running, or killed")
            + (f", {start.lost_steps:,} steps lost" if start.lost_steps else ""),
            _clock_and_shares(start.seconds, parts),
        )
        for start in starts
    ]
    if len(starts) > 1:
        lost = sum(start.lost_steps for start in starts)
        rows.append(("all", "", "", f"{lost:,} steps lost", _clock_and_shares(sums, parts)))
    return {"time_parts": parts, "time_rows": rows}


def _clock_and_shares(seconds: Mapping[str, float], parts: Sequence[str]) -> list[str]:
    total = sum(seconds.values())
    shares = [seconds.get(part, 0.0) / total if total else 0.0 for part in parts]
    return [watch.clock(total), *(f"{share:.1%}" for share in shares)]


def _inline(draw: figures.Draw, title: str) -> markupsafe.Markup:
    return markupsafe.Markup(figures.inline_svg(draw, title))


def _counts(task: str, entry: Mapping[str, Any]) -> dict[str, str]:
    def lengths(feature: str) -> str:
        ranks = entry[feature]["percentiles"]
        numbers = [*(ranks[rank] for rank in ("50.0", "90.0", "99.0")), entry[feature]["maximum"]]
        return " / ".join(f"{number:,}" for number in numbers)

    numbers = ("examples", "kept", "over_long_inputs", "over_long_targets")
    return {
        "task": task,
        **{name: f"{entry[name]:,}" for name in numbers},
        # runs before it was written have none
        "share_of_loss": f"{entry['share_of_loss']:.2%}" if "share_of_loss" in entry else "–",
        "inputs": lengths("inputs"),
        "targets": lengths("targets"),
    }


def _facts(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns a corpus's metadata as (name, text), its counts first."""
    counts = entry.get("counts", {})
    rows = [
        (
            f"{split} rows",
            f"{c['in']:,} in, {c['out']:,} out; dropped: "
            + (", ".join(f"{reason} {n:,}" for reason, n in c["dropped"].items()) or "none"),
        )
        for split, c in counts.items()
    ]
    return rows + [(name, str(value)) for name, value in entry.items() if name != "counts"]


def _manifests(run: Run) -> list[tuple[str, str]]:
    shown: list[tuple[str, Mapping[str, Any]]] = []
    if run.training:
        shown.append((_name(run.training / MANIFEST_NAME, run), run.manifest))
        shown.append((_name(run.training / "model.json", run), run.model))
    shown += [(_name(e.folder / MANIFEST_NAME, run), e.manifest) for e in run.evaluations]
    return [(name, json.dumps(content, indent=2)) for name, content in shown if content]


def _artefacts(run: Run, beside: files.Path) -> list[tuple[str, str]]:
    """Returns (name, relative link) of the run's files and folders that exist."""
    paths: list[files.Path] = []
    if run.training:
        paths += [run.training / name for name in _LINKED]
        paths += sorted(files.entries(run.training, "checkpoint_*"), key=_step)
    for evaluation in run.evaluations:
        paths += [evaluation.folder / "results.json", evaluation.folder / MANIFEST_NAME]
        paths += evaluation.prediction_files
    paths += [run.folder / name for name in run.corpora]
    return [
        (
            _name(path, run) + ("/" if path.is_dir() else ""),
            _link(path, beside),
        )
        for path in paths
        if path.exists()
    ]


def _link(path: files.Path, beside: files.Path) -> str:
    """Returns a link from a page in the folder `beside`; to the whole address where one of both is in a bucket."""
    if files.is_remote(path) or files.is_remote(beside):
        return urllib.parse.quote(str(path), safe=":/")
    return urllib.parse.quote(os.path.relpath(str(path), str(beside)))


def _name(path: files.Path, run: Run) -> str:
    return files.name_below(path, run.folder)


def _step(path: files.Path) -> tuple[int, str]:
    number = path.name.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0, path.name
