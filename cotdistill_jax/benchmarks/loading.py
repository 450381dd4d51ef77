"""From a benchmark's name to its questions."""

from cotdistill_jax import files
from cotdistill_jax.benchmarks import asdiv, bbh, gsm8k, multiarith, svamp
from cotdistill_jax.benchmarks.question import Question

MATHS = ("gsm8k", "multiarith", "asdiv", "svamp")
BBH = tuple(f"bbh/{task}" for task in bbh.TASKS)
NAMES = ("arith", *MATHS, *BBH)

_READERS = {"gsm8k": gsm8k, "multiarith": multiarith, "asdiv": asdiv, "svamp": svamp}
# Of arith, which is generated, a longer prefix of a held-out split costs nothing: 200 problems tell accuracies 10 % apart, 2,000 tell 3 %.
_ARITH_SPLITS: dict[str, tuple[str, int | None]] = {
    **{split: (split, None) for split in ("train", "validation", "test")},
    **{f"{split}_2000": (split, 2000) for split in ("validation", "test")},
}


def splits(name: str) -> tuple[str, ...]:
    """Returns the splits of a benchmark: `splits("svamp") == ("test",)`; ValueError if unknown."""
    if name not in NAMES:
        raise ValueError(f"benchmarks: unknown benchmark {name!r}; allowed: {', '.join(NAMES)}")
    if name == "arith":
        return tuple(_ARITH_SPLITS)
    return bbh.SPLITS if name in BBH else _READERS[name].SPLITS


def load(name: str, split: str = "test", data_dir: files.AnyPath | None = None) -> list[Question]:
    """Returns the questions of one split of one benchmark, in file order.

    Args:
      name: `gsm8k`, `multiarith`, `asdiv`, `svamp`, `bbh/<task>`, or `arith` (generated, needs no files).
      split: `test` for all. Further: gsm8k `train` (without the development rows), `dev`,
        `train_and_dev`; multiarith `validation_200`, `test_400`; arith `train`, `validation`,
        `validation_2000`, `test_2000` (the last two begin with the 200 problems of the split without a number).
      data_dir: folder with the benchmark files (what `scripts/download_benchmarks.py` writes);
        None reads the environment variable COTDISTILL_DATA_DIR.

    Raises:
      ValueError: unknown name or split (the message lists the allowed ones), a malformed or incomplete
        record (the message names file, record and field), or no question at all.
      FileNotFoundError: a file is missing; the message names it and the command that fetches it.
    """
    allowed = splits(name)
    if split not in allowed:
        raise ValueError(
            f"benchmarks: {name} has no split {split!r}; allowed: {', '.join(allowed)}"
        )
    questions = _read(name, split, data_dir)
    if not questions:
        raise ValueError(f"benchmarks: {name} split {split} is empty: its file holds no question")
    return questions


def _read(name: str, split: str, data_dir: files.AnyPath | None) -> list[Question]:
    if name == "arith":
        # Imported here: the generator is not needed to read files, and it imports this package.
        from cotdistill_jax.benchmarks import arith

        return arith.load(*_ARITH_SPLITS[split])
    if name in BBH:
        return bbh.load(name.removeprefix("bbh/"), split, data_dir)
    return _READERS[name].load(split, data_dir)
