"""`results.json` and the printed table: per benchmark, prompt and rule n, correct, accuracy, unparsed, 95 % interval.

{"schema_version": 1, "checkpoint": "...", "step": 1000,
 "results": {"gsm8k": {"zero_shot_cot": {"headline": "last_number", "unfinished": 3, "golds_outside_vocabulary": 0,
             "rules": {"last_number": {"n": 1319, "correct": 100, "accuracy": 0.0758, "unparsed": 2,
                                       "unreadable_golds": 0, "interval_95": [0.0627, 0.0914]}, ...}}}}}
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cotdistill_jax import files
from cotdistill_jax.files import write_json_atomically
from cotdistill_jax.inference.scoring import Result, Score, mean_of_tasks

RESULTS_NAME = "results.json"
SCHEMA_VERSION = 1


def write(folder: files.AnyPath, checkpoint: str, step: int, results: Sequence[Result]) -> None:
    """Writes results to `results.json`, beside those that the folder already has for other benchmarks and prompts.

    Once all tasks of BBH are among them, their mean is added under the name `bbh`.
    """
    path = files.as_path(folder) / RESULTS_NAME
    kept = read(folder) if path.exists() else []
    merged = {(result.benchmark, result.prompt): result for result in (*kept, *results)}
    table: dict[str, dict[str, Any]] = {}
    means = mean_of_tasks(list(merged.values()))
    merged.update({(result.benchmark, result.prompt): result for result in means})
    for (benchmark, prompt), result in sorted(merged.items()):
        table.setdefault(benchmark, {})[prompt] = {
            "headline": result.headline,
            "unfinished": result.unfinished,
            "golds_outside_vocabulary": result.golds_outside_vocabulary,
            "rules": {rule: dataclasses.asdict(score) for rule, score in result.scores.items()},
        }
    content = {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": checkpoint,
        "step": step,
        "results": table,
    }
    write_json_atomically(path, content)


def read(folder: files.AnyPath) -> list[Result]:
    """Returns the results of an evaluation folder.

    Raises:
        FileNotFoundError: it has no `results.json`.
        ValueError: that file is no JSON, or of another schema version.
    """
    path = files.as_path(folder) / RESULTS_NAME
    content = files.read_json(path, "inference")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"inference: {path} has schema version {content.get('schema_version')}, expected {SCHEMA_VERSION}; "
            "evaluate again with this version of the code"
        )
    return [
        Result(
            benchmark,
            prompt,
            entry["headline"],
            {rule: _score(fields) for rule, fields in entry["rules"].items()},
            entry["unfinished"],
            entry.get("golds_outside_vocabulary"),
        )
        for benchmark, prompts in content["results"].items()
        for prompt, entry in prompts.items()
    ]


def _score(fields: dict[str, Any]) -> Score:
    return Score(**{**fields, "interval_95": tuple(fields["interval_95"])})


def table(results: Sequence[Result]) -> str:
    """Returns results as text: one row per benchmark and prompt, then the other rules of that row.

    Percentages are accuracies; `none` counts texts without an answer, `cut` texts stopped by the length limit.
    """
    header = ("benchmark", "prompt", "n", "accuracy", "95 % interval", "none", "cut", "other rules")
    rows = [header, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header) - 1)]
    lines = []
    for row in rows:
        texts = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(row[2:-1], widths[2:], strict=True)]
        lines.append("  ".join([*texts, *numbers, row[-1]]).rstrip())
    return "\n".join([*lines, *outside_vocabulary(results)])


def outside_vocabulary(results: Sequence[Result]) -> list[str]:
    """Returns a line per result some of whose golds the model's vocabulary cannot spell."""
    return [
        f"{result.benchmark} {result.prompt}: {result.golds_outside_vocabulary:,} of {result.score.n:,} golds hold characters that the "
        "model's vocabulary lacks: it cannot write them."
        for result in results
        if result.golds_outside_vocabulary
    ]


def _row(result: Result) -> tuple[str, ...]:
    best = result.score
    low, high = best.interval_95
    others = [
        f"{rule} {score.accuracy:.2%}"
        for rule, score in result.scores.items()
        if rule != result.headline
    ]
    return (
        result.benchmark,
        result.prompt,
        str(best.n),
        f"{best.accuracy:.2%}",
        f"{low:.1%} - {high:.1%}",
        str(best.unparsed),
        str(result.unfinished),
        ", ".join(others),
    )
