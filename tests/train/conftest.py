"""What the tests share that run the train command in other processes."""

import pytest

TOY_TASKS = """\
import seqio, tensorflow as tf
from cotdistill_jax import corpus, features
from cotdistill_jax.benchmarks import arith

def examples(split, shuffle_files, seed=None):
    problems = arith.load(split, 64)
    return tf.data.Dataset.from_tensor_slices({
        "inputs": [f"Q: {problem.question} A:" for problem in problems],
        "targets": [f"The answer is {problem.gold}" for problem in problems]})

vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()), extra_ids=0)
for name in ("toy_a", "toy_b"):
    seqio.TaskRegistry.add(
        name, source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, features.guard_lengths],
        output_features=features.text_features(vocabulary), metric_fns=[])
seqio.MixtureRegistry.add("toy_mixture", [("toy_a", 0.7), ("toy_b", 0.3)])
"""


@pytest.fixture(scope="session")
def toy_tasks(tmp_path_factory):
    """A folder with the module `toy_tasks`, which registers two tasks of 64 `arith` problems and their mixture."""
    folder = tmp_path_factory.mktemp("toy_tasks")
    (folder / "toy_tasks.py").write_text(TOY_TASKS)
    return folder
