"""Everything `scripts/inspect_mixture.py` shows, read in one call."""

import dataclasses
from collections.abc import Mapping

from cotdistill_jax import files
from cotdistill_jax.inspection import effective, examples, layout, leakage
from cotdistill_jax.train import data


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A task or mixture, opened up.

    Attributes:
        name: the task or mixture.
        split: the split that was read.
        lengths: positions of `inputs` and `targets` in a row; those of the longest examples seen unless given.
        max_examples: examples read per task; None: all.
        examples: some of them, piece by piece.
        effective: shares, lengths, repetitions.
        leaks: what it shares with each benchmark.
        layout: how its first rows are packed.
    """

    name: str
    split: str
    lengths: Mapping[str, int]
    max_examples: int | None
    examples: tuple[examples.Example, ...]
    effective: effective.Effective
    leaks: tuple[leakage.Leak, ...]
    layout: layout.Layout


def inspect(
    name: str,
    split: str = "train",
    n: int = 4,
    lengths: Mapping[str, int] | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    data_dir: files.AnyPath | None = None,
) -> Inspection:
    """Returns what the model really sees of a task or mixture.

    Args:
        name: registered task or mixture.
        split: split to read.
        n: examples to show.
        lengths: positions of `inputs` and `targets` in a row, as a run sets them; None: those of the longest examples.
        max_examples: examples read per task for all counts; None reads all.
        seed: seed of mixing and of drawing demonstrations.
        data_dir: benchmark folder for the leakage check; None reads COTDISTILL_DATA_DIR.

    Raises:
        ValueError: unknown name, or nothing fits the lengths.
        FileNotFoundError: the corpus is not built.
    """
    data.check_registered(name)
    shares = effective.measure(name, split, lengths, max_examples, seed)
    if lengths is None:
        reports = [task.lengths for task in shares.tasks]
        lengths = {
            "inputs": max(report.inputs.maximum for report in reports),
            "targets": max(report.targets.maximum for report in reports),
        }
    return Inspection(
        name=name,
        split=split,
        lengths=lengths,
        max_examples=max_examples,
        examples=tuple(examples.read_examples(name, split, n, seed)),
        effective=shares,
        leaks=tuple(leakage.find_leaks(shares.questions.values(), data_dir)),
        layout=layout.read_layout(name, split, lengths, seed=seed),
    )
