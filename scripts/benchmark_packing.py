"""Measures how full packed rows are, ours (first fit) beside SeqIO's (one open row), on one mixture.

    python scripts/benchmark_packing.py --mixture=gsm8k_gold_all_v1 --inputs=1024 --targets=256

Prints, per packer, the share of encoder and decoder positions that hold a token, examples per row, and examples and
rows per second of the whole input pipeline.
"""

import itertools
import pathlib
import sys
import time

import seqio
from absl import app, flags

from cotdistill_jax import command

_MIXTURE = flags.DEFINE_string("mixture", None, "Registered task or mixture.", required=True)
_INPUTS = flags.DEFINE_integer("inputs", 1024, "Encoder positions of a row.")
_TARGETS = flags.DEFINE_integer("targets", 256, "Decoder positions of a row.")
_NUM_ROWS = flags.DEFINE_integer("num_rows", 500, "Rows to read.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of shuffling, mixing and demonstrations.")


def measure(converter: seqio.FeatureConverter) -> str:
    """Returns one line of figures about the first rows that `converter` makes of the mixture."""
    dataset = seqio.get_dataset(
        _MIXTURE.value,
        {"inputs": _INPUTS.value, "targets": _TARGETS.value},
        converter,
        shuffle=True,
        num_epochs=None,
        seed=_SEED.value,
        verbose=False,
    )
    rows = examples = inputs = targets = 0
    start = time.perf_counter()
    for row in itertools.islice(dataset.as_numpy_iterator(), _NUM_ROWS.value):
        rows += 1
        examples += row["decoder_segment_ids"].max()
        inputs += (row["encoder_segment_ids"] > 0).sum()
        targets += (row["decoder_segment_ids"] > 0).sum()
    seconds = time.perf_counter() - start
    return (
        f"encoder {inputs / rows / _INPUTS.value:.1%}, decoder {targets / rows / _TARGETS.value:.1%}, "
        f"{examples / rows:.1f} examples a row, {examples / seconds:,.0f} examples/s, "
        f"{rows / seconds:,.0f} rows/s"
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    import tasks  # noqa: F401  registers them
    from cotdistill_jax import features

    print(f"{_MIXTURE.value}, {_NUM_ROWS.value} rows of {_INPUTS.value} + {_TARGETS.value}")
    print("first fit:", measure(features.DistillEncDecFeatureConverter(pack=True)))
    print("SeqIO:    ", measure(seqio.EncDecFeatureConverter(pack=True)))


if __name__ == "__main__":
    command.run(app.run, main)
