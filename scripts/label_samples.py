"""Makes the training data of a verifier from drawn samples: distinct texts, each labelled right or wrong.

    python -m cotdistill_jax.inference --checkpoint=STUDENT --benchmarks=arith:train --num_examples=10000 \
        --num_samples=4 --prompt=zero_shot_cot --output_dir=SAMPLES
    python scripts/label_samples.py --predictions=SAMPLES/predictions/arith-train.zero_shot_cot.samples.jsonl \
        --output_dir=LABELLED
    COTDISTILL_VERIFIER_DIR=LABELLED python -m cotdistill_jax.train --gin_file=gin/experiments/arith_verifier.gin ...
"""

import argparse
from collections.abc import Sequence

from cotdistill_jax import command
from cotdistill_jax.inference import verification


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--predictions",
        required=True,
        nargs="+",
        help="files of drawn samples, of training questions",
    )
    add("--output_dir", required=True, help="made where missing")
    add("--rule", default="last_number", help="answer rule whose verdict is the label")
    add("--validation_questions", type=int, default=200, help="questions held out for validation")
    add("--seed", type=int, default=0, help="of drawing them")
    flags = parser.parse_args(arguments)
    counts = verification.write_corpus(
        flags.output_dir, flags.predictions, flags.rule, flags.validation_questions, flags.seed
    )
    print(f"{flags.output_dir}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()))


if __name__ == "__main__":
    command.run(main)
