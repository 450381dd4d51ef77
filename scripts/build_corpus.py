"""Builds a corpus as a TFDS dataset, if it is not there yet, and prints how many rows came in, went out and why not.

    python scripts/build_corpus.py --corpus=arith --tfds_data_dir=corpora
    COTDISTILL_DATA_DIR=data python scripts/build_corpus.py --corpus=gsm8k_gold --tfds_data_dir=corpora
    COTDISTILL_DATA_DIR=data python scripts/build_corpus.py --corpus=gsm8k_teacher --aligned_dir=aligned --tfds_data_dir=corpora
    COTDISTILL_DATA_DIR=data python scripts/build_corpus.py --corpus=seed --formatted_dir=seed/formatted --tfds_data_dir=corpora

Training reads it where `COTDISTILL_TFDS_DIR` points (T5X: `--tfds_data_dir`).
"""

import os
import sys
import time

from absl import app, flags

from cotdistill_jax import command

_CORPUS = flags.DEFINE_enum(
    "corpus", None, ["arith", "gsm8k_gold", "gsm8k_teacher", "seed"], "Which corpus.", required=True
)
_TFDS_DATA_DIR = flags.DEFINE_string(
    "tfds_data_dir", None, "Where datasets lie; COTDISTILL_TFDS_DIR or TFDS's default if not given."
)
_SEVERAL_DERIVATIONS = flags.DEFINE_bool(
    "several_derivations", False, "arith: whether the teacher reaches an answer in several ways."
)
_ALIGNED_DIR = flags.DEFINE_string(
    "aligned_dir", None, "gsm8k_teacher: what scripts/align_teacher.py wrote."
)

_ALLOW_ONE_HOT_SHARE = flags.DEFINE_float(
    "allow_one_hot_share",
    None,
    "gsm8k_teacher: most pieces without a teacher's probabilities, in [0, 1]; default: as align_teacher allowed.",
    lower_bound=0.0,
    upper_bound=1.0,
)

_FORMATTED_DIR = flags.DEFINE_string(
    "formatted_dir", None, "seed: the folder `formatted` that scripts/import_seed_data.py wrote."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    try:
        for builder in _builders(_TFDS_DATA_DIR.value or os.environ.get("COTDISTILL_TFDS_DIR")):
            _build(builder)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def _build(builder: "tfds.core.DatasetBuilder") -> None:  # noqa: F821
    """Builds one dataset if it is not there, and prints its counts."""
    start = time.monotonic()
    built = (builder.data_path / "dataset_info.json").exists()
    builder.download_and_prepare()
    seconds = time.monotonic() - start
    print(f"{builder.data_path}: {'was already built' if built else f'built in {seconds:.0f} s'}")
    for split, counts in builder.info.metadata["counts"].items():
        dropped = "".join(f", {reason} {number:,}" for reason, number in counts["dropped"].items())
        print(f"  {split}: {counts['in']:,} in, {counts['out']:,} out{dropped}")


def _builders(data_dir: str | None) -> list["tfds.core.DatasetBuilder"]:  # noqa: F821
    """Returns the builders; imported late, so that --help and wrong flags answer at once."""
    if _CORPUS.value == "arith":
        from cotdistill_jax.corpus import arith

        return [arith.Arith(data_dir=data_dir, several_derivations=_SEVERAL_DERIVATIONS.value)]
    if _CORPUS.value == "gsm8k_gold":
        from cotdistill_jax.corpus import gsm8k_gold

        return [gsm8k_gold.Gsm8kGold(data_dir=data_dir)]
    if _CORPUS.value == "gsm8k_teacher":
        from cotdistill_jax.corpus import gsm8k_teacher

        return [
            gsm8k_teacher.Gsm8kTeacher(
                data_dir=data_dir,
                aligned_dir=_ALIGNED_DIR.value,
                allow_one_hot_share=_ALLOW_ONE_HOT_SHARE.value,
            )
        ]
    from cotdistill_jax.corpus import schema, seed

    builders = {
        config: seed.Seed(config=config, data_dir=data_dir, formatted_dir=_FORMATTED_DIR.value)
        for config in seed.Seed.builder_configs
    }
    if _FORMATTED_DIR.value and not seed.has_negative(_FORMATTED_DIR.value):
        del builders[schema.NEGATIVE_FORMAT]
        print(
            f"corpus: no wrong rationales: neither {_FORMATTED_DIR.value}/{schema.NEGATIVE_FORMAT} nor {seed.RECORDS} beside it; "
            "contrastive mixtures need them, nothing else does"
        )
    return list(builders.values())


if __name__ == "__main__":
    command.run(app.run, main)
