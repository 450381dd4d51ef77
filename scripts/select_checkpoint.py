"""Compares evaluated checkpoints: what they gain on the trained kind of problem and lose elsewhere, and which to take.

    python -m cotdistill_jax.inference --checkpoint=RUN --steps=all --prompt=zero_shot_cot --output_dir=EVALUATION \
        --benchmarks=gsm8k:dev,multiarith:validation_200,gsm8k,multiarith,asdiv,svamp,bbh
    python scripts/select_checkpoint.py --results EVALUATION --output_dir=CHOICE

Writes `trade_off.csv`, `choice.json` and `trade_off.png`, and prints the table. Development sets choose (`gsm8k:dev` and
`arith:validation` for the best on GSM8K, `multiarith:validation_200` and other splits of maths sets for the best
elsewhere); the plot shows test sets.
"""

import argparse
import functools
from collections.abc import Sequence

from cotdistill_jax import command, files
from cotdistill_jax.files import write_json_atomically
from cotdistill_jax.report import checkpoint_choice, figures, trade_off
from cotdistill_jax.report.run_files import Evaluation, read_run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--results", required=True, nargs="+", help="evaluation folders, folders of such, or globs")
    add("--steps", help="only these checkpoints, such as 100,200")
    add("--output_dir", required=True, type=files.as_path, help="made where missing")
    add("--theme", choices=sorted(figures.THEMES), default="light", help="of the plot")
    flags = parser.parse_args(arguments)
    evaluations = _read(flags.results, flags.steps)
    table = checkpoint_choice.rows(evaluations)
    content = checkpoint_choice.to_json(table)
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomically(flags.output_dir / "choice.json", content)
    csv = checkpoint_choice.to_csv(table)
    (flags.output_dir / "trade_off.csv").write_text(csv, encoding="utf-8")
    print(checkpoint_choice.to_text(table))
    for criterion in checkpoint_choice.CRITERIA:
        chosen = checkpoint_choice.best(table, criterion)
        column = checkpoint_choice.CRITERIA[criterion]
        for prompt, row in chosen.items():
            print(f"best for {criterion}, {prompt}: {row.checkpoint} ({row.means[column]:.1%})")
        if not chosen:
            print(f"best for {criterion}: unknown, no development set of that kind was evaluated")
    points = trade_off.points(map(checkpoint_choice.only_tests, evaluations))
    if trade_off.can_draw(points):
        draw = functools.partial(trade_off.draw_trade_off, points)
        figures.save(draw, flags.output_dir / "trade_off.png", flags.theme)
    else:
        print("no plot: no checkpoint was evaluated on test sets of two kinds")


def _read(names: Sequence[str], steps: str | None) -> list[Evaluation]:
    """Returns the evaluations below the folders, each once, by step.

    Raises:
        FileNotFoundError: nothing matches, or a step was not evaluated.
    """
    folders = [path for name in names for path in sorted(files.matches(name))]
    if not folders:
        raise FileNotFoundError(f"select_checkpoint: no folder matches --results {' '.join(names)}")
    found = {e.folder.resolve(): e for folder in folders for e in read_run(folder).evaluations}
    if steps is None:
        return sorted(found.values(), key=lambda e: (e.step, e.checkpoint))
    wanted = {int(step) for step in steps.split(",")}
    missing = sorted(wanted - {e.step for e in found.values()})
    if missing:
        there = sorted({e.step for e in found.values()})
        raise FileNotFoundError(
            f"select_checkpoint: no results of step {missing}; there are {there}"
        )
    return sorted(
        (e for e in found.values() if e.step in wanted), key=lambda e: (e.step, e.checkpoint)
    )


if __name__ == "__main__":
    command.run(main)
