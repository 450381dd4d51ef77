"""Questions of a mixture that also stand in a benchmark: what must not be trained on."""

import dataclasses
from collections.abc import Iterable, Iterator

from cotdistill_jax import benchmarks, files
from cotdistill_jax.benchmarks import Question

_HELD_OUT = {"gsm8k": ("dev", "test"), "arith": ("validation", "test")}
_DEFAULT_SPLITS = ("test",)


@dataclasses.dataclass(frozen=True)
class Leak:
    """What a mixture shares with one split of one benchmark.

    Attributes:
        benchmark: name.
        split: split.
        questions: its questions; None where its files are missing, so that nothing was compared.
        exact: pairs (question of the mixture, question of the benchmark) with the same text.
        normalised: pairs that differ only in case, punctuation and white space.
    """

    benchmark: str
    split: str
    questions: int | None
    exact: tuple[tuple[str, str], ...]
    normalised: tuple[tuple[str, str], ...]


def find_leaks(
    questions: Iterable[Question], data_dir: files.AnyPath | None = None
) -> Iterator[Leak]:
    """Yields, for every held-out split of every benchmark, what the questions share with it.

    Args:
        questions: those of the mixture.
        data_dir: benchmark folder; None reads COTDISTILL_DATA_DIR. A benchmark whose files are missing is reported as not compared.
    """
    own = list(questions)
    for name in benchmarks.NAMES:
        for split in _HELD_OUT.get(name, _DEFAULT_SPLITS):
            try:
                theirs = benchmarks.load(name, split, data_dir)
            except FileNotFoundError:
                yield Leak(name, split, None, (), ())
                continue
            shared = benchmarks.overlaps(own, theirs)
            yield Leak(name, split, len(theirs), shared.exact, shared.normalised)
