"""Builds a corpus as a TFDS dataset, if it is not there yet, and prints how many rows came in, went out and why not.

    python scripts/build_corpus.py --corpus=arith --tfds_data_dir=corpora
    COTDISTILL_DATA_DIR=data python scripts/build_corpus.py --corpus=gsm8k_gold --tfds_data_dir=corpora
    COTDISTILL_DATA_DIR=data python scripts/build_corpus.py --corpus=gsm8k_teacher --aligned_dir=aligned --tfds_data_dir=corpora
    COTDISTILL_DATA_DIR=data python scripts/build_corpus.py --corpus=seed --formatted_dir=seed/formatted --tfds_data_dir=corpora
    python scripts/build_corpus.py --corpus=mine --aligned_dir=aligned --vocab=spiece.model --tfds_data_dir=corpora

The last one is a corpus of your own: any questions, any teacher, any vocabulary; its tasks are `mine_zero_shot_cot_v1` and so on. Training reads it where `COTDISTILL_TFDS_DIR` points (T5X: `--tfds_data_dir`).
"""

import os
import sys
import time

from absl import app, flags

from cotdistill_jax import command, files

_SHIPPED = ("arith", "gsm8k_gold", "gsm8k_teacher", "seed")
_CORPUS = flags.DEFINE_string(
    "corpus", None, f"{', '.join(_SHIPPED)}, or a name for your own.", required=True
)
_TFDS_DATA_DIR = flags.DEFINE_string(
    "tfds_data_dir", None, "Where datasets lie; COTDISTILL_TFDS_DIR or TFDS's default if not given."
)
_SEVERAL_DERIVATIONS = flags.DEFINE_bool(
    "several_derivations", False, "arith: whether the teacher reaches an answer in several ways."
)
_ALIGNED_DIR = flags.DEFINE_string(
    "aligned_dir",
    None,
    "gsm8k_teacher, your own, and arith if not made here: what scripts/align_teacher.py wrote.",
)
_VOCAB = flags.DEFINE_string(
    "vocab", None, "Your own: the SentencePiece model it was aligned to; default: T5's."
)
_EXTRA_IDS = flags.DEFINE_integer(
    "extra_ids",
    None,
    "Your own: sentinel ids above its pieces; default: 100 for T5's, else 0.",
    lower_bound=0,
)
_HELD_OUT_SHARE = flags.DEFINE_float(
    "held_out_share",
    0.02,
    "Your own: share of the questions held out as validation.",
    lower_bound=0.0,
)
_HELD_OUT_IDS = flags.DEFINE_string(
    "held_out_ids", None, "Your own: file with further ids of questions to hold out, one a line."
)

_ALLOW_ONE_HOT_SHARE = flags.DEFINE_float(
    "allow_one_hot_share",
    None,
    "With --aligned_dir: most pieces without a teacher's probabilities, in [0, 1]; default: as align_teacher allowed.",
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
    if _CORPUS.value not in _SHIPPED:
        _say_of_own(builder)
    print(
        f"{builder.data_path}: {'was already built, and stays as it is' if built else f'built in {seconds:.0f} s'}"
    )
    for split, counts in builder.info.metadata["counts"].items():
        dropped = "".join(f", {reason} {number:,}" for reason, number in counts["dropped"].items())
        print(f"  {split}: {counts['in']:,} in, {counts['out']:,} out{dropped}")


def _builders(data_dir: str | None) -> list["tfds.core.DatasetBuilder"]:  # noqa: F821
    """Returns the builders; imported late, so that --help and wrong flags answer at once."""
    if _CORPUS.value == "arith":
        from cotdistill_jax.corpus import arith

        return [
            arith.Arith(
                data_dir=data_dir,
                several_derivations=_SEVERAL_DERIVATIONS.value,
                aligned_dir=_ALIGNED_DIR.value,
                allow_one_hot_share=_ALLOW_ONE_HOT_SHARE.value,
            )
        ]
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
    if _CORPUS.value != "seed":
        return [_own_builder(data_dir)]
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


def _say_of_own(builder: "tfds.core.DatasetBuilder") -> None:  # noqa: F821
    """Says of a corpus of the user's own what it was compared with, and how to train on it."""
    checked = builder.info.metadata["leakage_checked_against"]
    print(
        f"leakage guard: compared with the test sets of {', '.join(checked)}"
        + (
            ""
            if "gsm8k" in checked
            else "; without COTDISTILL_DATA_DIR there is nothing else to compare with"
        )
    )
    print(
        f"tasks and mixtures, where COTDISTILL_TFDS_DIR is {files.as_path(str(builder.data_path)).absolute().parent.parent}: {_CORPUS.value}_all_v1, "
        f"{_CORPUS.value}_zero_shot_cot_v1, ..."
    )


def _own_builder(data_dir: str | None) -> "tfds.core.DatasetBuilder":  # noqa: F821
    """Returns the builder of a corpus that the user names."""
    if _ALIGNED_DIR.value is None:
        raise ValueError(
            f"build_corpus: --corpus={_CORPUS.value} is none of {', '.join(_SHIPPED)}; for a corpus of your own give --aligned_dir, what "
            "scripts/align_teacher.py wrote"
        )
    from cotdistill_jax import corpus
    from cotdistill_jax.corpus import own

    held_out = ()
    if _HELD_OUT_IDS.value:
        held_out = files.read_text(_HELD_OUT_IDS.value, "corpus").split()
    return own.builder(
        _CORPUS.value,
        _ALIGNED_DIR.value,
        _VOCAB.value or corpus.t5_vocabulary(),
        extra_ids=_EXTRA_IDS.value,
        held_out_share=_HELD_OUT_SHARE.value,
        held_out_ids=held_out,
        allow_one_hot_share=_ALLOW_ONE_HOT_SHARE.value,
        data_dir=data_dir,
    )


if __name__ == "__main__":
    command.run(app.run, main)
