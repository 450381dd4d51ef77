"""Trains the student vocabulary of the embedded source `arith` and writes it into the package.

Run it again whenever the problems of `cotdistill_jax.benchmarks.arith` change:

    python scripts/train_arith_vocab.py
"""

from absl import app, flags

from cotdistill_jax import benchmarks, command, corpus, files
from cotdistill_jax.corpus import vocabularies

_OUTPUT = flags.DEFINE_string(
    "output", str(corpus.arith_vocabulary()), "Where to write the SentencePiece model."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    model = vocabularies.train_arith_vocabulary(benchmarks.load("arith", "train"))
    path = files.local_path(_OUTPUT.value, "vocabulary", "a vocabulary that is made")
    path.write_bytes(model)
    print(f"{path}: {len(model):,} bytes, sha256 {corpus.checksum(path)}")


if __name__ == "__main__":
    command.run(app.run, main)
