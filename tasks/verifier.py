"""Tasks `{source}_verifier_v2`: `right` or `wrong` and a question -> a labelled sample of that kind.

The samples lie in `$COTDISTILL_VERIFIER_DIR/{train,validation}.jsonl`, written by `scripts/label_samples.py`. Which source
they are of is the caller's matter: the two tasks differ in their vocabulary.
"""

import os

import seqio
import tensorflow as tf

from cotdistill_jax import features, seqio_tasks
from cotdistill_jax.inference import verification

DATA_DIR_VARIABLE = "COTDISTILL_VERIFIER_DIR"


def read(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
    """Returns the rendered examples of a split.

    Raises:
        FileNotFoundError: the variable is not set, or the split is not there; the message says how to make it.
    """
    del shuffle_files, seed  # one file; SeqIO shuffles the examples
    if DATA_DIR_VARIABLE not in os.environ:
        raise FileNotFoundError(
            f"tasks: {DATA_DIR_VARIABLE} is not set; point it to a folder written by scripts/label_samples.py"
        )
    samples = verification.read_corpus(os.environ[DATA_DIR_VARIABLE], split)
    rows = {
        "question_id": [sample.question_id for sample in samples],
        "inputs": [verification.render(sample.question, sample.right) for sample in samples],
        "targets": [sample.rationale for sample in samples],
    }
    return tf.data.Dataset.from_tensor_slices(rows)


for _source, _vocabulary in (
    ("arith", seqio_tasks.vocabularies.arith()),
    ("gsm8k", seqio_tasks.vocabularies.t5()),
):
    seqio.TaskRegistry.add(
        f"{_source}_verifier_v2",
        source=seqio.FunctionDataSource(read, splits=verification.SPLITS),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
            features.guard_lengths,
        ],
        output_features=features.text_features(_vocabulary),
        metric_fns=[],  # what counts is the choice among samples: scripts/rerank.py
    )
