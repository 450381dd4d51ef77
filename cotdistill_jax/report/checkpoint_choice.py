"""Which checkpoint to take: the best on the development set of the trained kind of problem, and the best on the others'.

Fu et al. 2023 (arXiv 2301.12726) show that these are different checkpoints, and that both cost general ability. Test sets never
choose: a development set is a split with a name (`gsm8k:dev`, `multiarith:validation_200`); a benchmark without one is a test set.

| column | mean accuracy over |
|---|---|
| `in_distribution_dev`, `other_maths_dev` | the development sets of GSM8K and arith; of MultiArith, ASDiv and SVAMP |
| `in_distribution`, `other_maths`, `bbh` | the test sets of `trade_off.FAMILIES` |
"""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cotdistill_jax.report import trade_off
from cotdistill_jax.report.run_files import Evaluation

COLUMNS = dict(zip(("in_distribution", "other_maths", "bbh"), trade_off.FAMILIES, strict=True))
CRITERIA = {"gsm8k": "in_distribution_dev", "out_of_distribution": "other_maths_dev"}
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One checkpoint with one prompt mode.

    Attributes:
        checkpoint: as `results.json` names it.
        step: its training step.
        prompt: prompt mode.
        means: by column, in [0, 1]; without the columns of which no benchmark was evaluated.
        benchmarks: accuracy per benchmark, by its headline rule.
    """

    checkpoint: str
    step: int
    prompt: str
    means: Mapping[str, float]
    benchmarks: Mapping[str, float]


def rows(evaluations: Iterable[Evaluation]) -> list[Row]:
    """Returns a row per checkpoint and prompt mode, by prompt, then step.

    Raises:
        ValueError: one checkpoint was evaluated with one prompt mode in two folders, or two checkpoints on different
            questions of one benchmark (fewer of them, or another version of its file).
    """
    evaluations = list(evaluations)
    _check_same_questions(evaluations)
    found: dict[tuple[str, str], Row] = {}
    for evaluation in evaluations:
        for prompt in dict.fromkeys(result.prompt for result in evaluation.results):
            accuracy = {
                r.benchmark: r.score.accuracy for r in evaluation.results if r.prompt == prompt
            }
            key = evaluation.checkpoint, prompt
            if key in found:
                raise ValueError(
                    f"report: {evaluation.checkpoint} with {prompt} was evaluated twice, the second time in "
                    f"{evaluation.folder}; pass folders that hold each checkpoint once"
                )
            found[key] = Row(
                evaluation.checkpoint, evaluation.step, prompt, _means(evaluation, prompt), accuracy
            )
    return sorted(found.values(), key=lambda row: (row.prompt, row.step, row.checkpoint))


def _check_same_questions(evaluations: Sequence[Evaluation]) -> None:
    first: dict[tuple[str, str], tuple[tuple[int, Any], Evaluation]] = {}
    for evaluation in evaluations:
        settings = [
            file["settings"] for file in evaluation.manifest.get("predictions", {}).values()
        ]
        checksums = {(s["benchmark"], s["prompt"]): s["questions_sha256"] for s in settings}
        for result in evaluation.results:
            mode = result.prompt.partition("@")[0]  # of a vote, the number of samples follows
            mine = result.score.n, checksums.get((result.benchmark, mode))
            theirs, other = first.setdefault((result.benchmark, result.prompt), (mine, evaluation))
            if mine != theirs:
                raise ValueError(
                    f"report: {evaluation.folder} and {other.folder} answer different questions of {result.benchmark}: "
                    f"{mine[0]} and {theirs[0]}, checksums {mine[1]} and {theirs[1]}. Evaluate all checkpoints on the "
                    "same questions."
                )


def _means(evaluation: Evaluation, prompt: str) -> dict[str, float]:
    means = {}
    for suffix, results in (
        ("_dev", [r for r in evaluation.results if ":" in r.benchmark]),
        ("", only_tests(evaluation).results),
    ):
        part = dataclasses.replace(evaluation, results=[r for r in results if r.prompt == prompt])
        for point in trade_off.points([part]):
            for column, family in COLUMNS.items():
                if family in point.accuracy:
                    means[column + suffix] = point.accuracy[family]
    return means


def only_tests(evaluation: Evaluation) -> Evaluation:
    """Returns the evaluation without the results of development sets."""
    tests = [result for result in evaluation.results if ":" not in result.benchmark]
    return dataclasses.replace(evaluation, results=tests)


def best(table: Sequence[Row], criterion: str) -> dict[str, Row]:
    """Returns per prompt mode the row with the highest mean on the development sets of a criterion, the earliest among equals.

    Args:
        table: from `rows`.
        criterion: a name in `CRITERIA`.

    Raises:
        ValueError: a checkpoint lacks benchmarks that others of its prompt mode have in that mean: they cannot be compared.
    """
    column = CRITERIA[criterion]
    chosen: dict[str, Row] = {}
    for prompt in dict.fromkeys(row.prompt for row in table):
        of_prompt = [row for row in table if row.prompt == prompt]
        sets = {
            row.checkpoint: frozenset(n for n in row.benchmarks if ":" in n) for row in of_prompt
        }
        some = sorted(frozenset.union(*sets.values()) - frozenset.intersection(*sets.values()))
        if some:
            lacking = next(name for name, there in sets.items() if some[0] not in there)
            raise ValueError(
                f"report: {lacking} was not evaluated on {some[0]} with {prompt}, others were; evaluate all checkpoints "
                "on the same development sets"
            )
        with_mean = [row for row in of_prompt if column in row.means]
        if with_mean:
            chosen[prompt] = max(with_mean, key=lambda row: (row.means[column], -row.step))
    return chosen


def to_json(table: Sequence[Row]) -> dict[str, Any]:
    """Returns the table and the choices as JSON values."""
    choices = {name: best(table, name) for name in CRITERIA}
    return {
        "artefact": "checkpoint_choice",
        "schema_version": SCHEMA_VERSION,
        "rows": [dataclasses.asdict(row) for row in table],
        "best": {
            name: {prompt: dataclasses.asdict(row) for prompt, row in found.items()}
            for name, found in choices.items()
        },
    }


def to_csv(table: Sequence[Row]) -> str:
    """Returns the table as CSV; accuracies in [0, 1], empty where not evaluated."""
    names = sorted({name for row in table for name in row.benchmarks})
    columns = [column + suffix for suffix in ("_dev", "") for column in COLUMNS]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["checkpoint", "step", "prompt", *columns, *names])
    for row in table:
        values = [row.means.get(c, "") for c in columns] + [
            row.benchmarks.get(n, "") for n in names
        ]
        writer.writerow([row.checkpoint, row.step, row.prompt, *values])
    return file.getvalue()


def to_text(table: Sequence[Row]) -> str:
    """Returns the table for a terminal, accuracies in per cent; `*` marks the best on the development sets."""
    columns = [
        c + suffix
        for suffix in ("_dev", "")
        for c in COLUMNS
        if any(c + suffix in row.means for row in table)
    ]
    marks = {
        (row.checkpoint, row.prompt, CRITERIA[name])
        for name in CRITERIA
        for row in best(table, name).values()
    }
    lines = [["checkpoint", "step", "prompt", *columns]]
    for row in table:
        cells = []
        for column in columns:
            mark = "*" if (row.checkpoint, row.prompt, column) in marks else " "
            cells.append(f"{100 * row.means[column]:.1f}{mark}" if column in row.means else "- ")
        lines.append([row.checkpoint[-40:], f"{row.step:,}", row.prompt, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
