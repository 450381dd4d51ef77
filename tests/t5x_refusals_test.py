"""What does not fit is refused by both runners in the same words, before anything is compiled or saved."""

import pytest

pytestmark = [pytest.mark.t5x, pytest.mark.slow]

TASKS = """\
import dataclasses
import seqio, tensorflow as tf
from cotdistill_jax import corpus, features

vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()), extra_ids=0)

def examples(split, shuffle_files, seed=None):
    row = {"inputs": [5, 6, 1], "targets": [7, 8],
           "teacher_ids": [[7, 9, 4], [8, 9, 4]], "teacher_probs": [[0.5, 0.2, 0.1]] * 2}
    shapes = {"inputs": tf.TensorSpec([None], tf.int32), "targets": tf.TensorSpec([None], tf.int32),
              "teacher_ids": tf.TensorSpec([None, 3], tf.int32), "teacher_probs": tf.TensorSpec([None, 3], tf.float32)}
    return tf.data.Dataset.from_generator(lambda: iter([row] * 8), output_signature=shapes)

@seqio.map_over_dataset
def without_teacher(example):
    return {name: example[name] for name in ("inputs", "targets")}

def add(name, output_features, preprocessors):
    seqio.TaskRegistry.add(
        name, source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
        preprocessors=preprocessors, output_features=output_features)

end = [seqio.preprocessors.append_eos, features.append_teacher_eos, features.check_teacher]
add("refusals_without_teacher", features.text_features(vocabulary), [without_teacher, seqio.preprocessors.append_eos])
add("refusals_k_is_5", features.output_features(vocabulary, k=5), end)

@seqio.map_over_dataset
def strange_ids(example):
    return {**example, "teacher_ids": example["teacher_ids"] + 600}

add("refusals_strange_ids", features.output_features(vocabulary, k=3), [strange_ids, *end])
"""

BASE = """
from __gin__ import dynamic_registration
import t5x_refusals_tasks
include 'gin/defaults.gin'
include 'gin/losses/distribution_matching.gin'
include 'gin/models/tiny.gin'
NUM_LAYERS = 1
BATCH_SIZE = 8
SAVE_PERIOD = 2
COMPILATION_CACHE_DIR = None
COUNT_EXAMPLES = 8
WARMUP_STEPS = 1
"""
ARITH = """
include 'gin/mixtures/arith.gin'
MIXTURE_OR_TASK_NAME = 'arith_zero_shot_cot_v1'
TRAIN_STEPS = 2
"""
TOY = """
TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 8, 'teacher_ids': 8, 'teacher_probs': 8}
TRAIN_STEPS = 2
"""
MESSAGES = {
    "missing_macro": (
        BASE + ARITH.replace("TRAIN_STEPS = 2", ""),
        "TRAIN_STEPS",
    ),
    "unknown_task": (BASE + ARITH + "MIXTURE_OR_TASK_NAME = 'arith_al_v1'", "expected one of arith_all_v1"),
    "lengths_that_cut_all_targets": (
        BASE + ARITH
        + "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 4, 'teacher_ids': 4, 'teacher_probs': 4}",
        "none of the first 8 examples of arith_zero_shot_cot_v1 fits",
    ),
    "lengths_that_cut_some_targets": (
        BASE + ARITH + "COUNT_EXAMPLES = 64\n"
        + "TASK_FEATURE_LENGTHS = {'inputs': 96, 'targets': 32, 'teacher_ids': 32, 'teacher_probs': 32}",
        "which would cut them",
    ),
    "teacher_lengths_that_cut_the_teacher": (
        BASE + ARITH
        + "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 64, 'teacher_ids': 32, 'teacher_probs': 64}",
        "task_feature_lengths gives teacher_ids 32 and targets 64; they must be equal",
    ),
    "heads_over_the_mesh": (BASE + ARITH + "NUM_HEADS = 6\nMESH_SHAPE = (2, 4)", "num_heads = 6 over model = 4"),
    "batch_over_the_mesh": (BASE + ARITH + "BATCH_SIZE = 6\nMESH_SHAPE = (4, 2)", "over data * fsdp = 4"),
    "too_many_devices": (BASE + ARITH + "MESH_SHAPE = (4, 4)", "needs 16 devices, got 8"),
    "vocabulary": (BASE + ARITH + "VOCAB_SIZE = 256", "vocabulary of 512 ids, the network 256"),
    "no_teacher_lengths": (
        BASE + ARITH + "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 64}",
        "distribution_matching needs ['decoder_teacher_ids', 'decoder_teacher_probs']",
    ),
    "corpus_without_teacher": (
        BASE + TOY + "MIXTURE_OR_TASK_NAME = 'refusals_without_teacher'",
        "task_feature_lengths asks for ['teacher_ids', 'teacher_probs']",
    ),
    "another_k": (
        BASE + TOY + "MIXTURE_OR_TASK_NAME = 'refusals_k_is_5'",
        "expected (None, 5) as the task declares",
    ),
    "ids_outside_the_vocabulary": (
        BASE + TOY + "MIXTURE_OR_TASK_NAME = 'refusals_strange_ids'",
        "teacher ids outside the vocabulary",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_both_runners_refuse_it_in_the_same_words(t5x_commands, tmp_path, name):
    (t5x_commands.folder / "modules" / "t5x_refusals_tasks.py").write_text(TASKS)
    text, message = MESSAGES[name]
    (tmp_path / "leaf.gin").write_text(text)
    for module, gin_file in (
        ("cotdistill_jax.train", "gin/runs/finetune.gin"),
        ("t5x.train", "gin/t5x/finetune.gin"),
    ):
        run = tmp_path / module
        arguments = [
            f"--gin_file={tmp_path}/leaf.gin",
            f"--gin_file={gin_file}",
            f"--gin.MODEL_DIR='{run}'",
        ]
        t5x_commands.start(module, arguments, XLA_FLAGS="--xla_force_host_platform_device_count=8")
        status, output = t5x_commands.wait()
        assert status != 0
        assert message in output, f"{module}: {output[-3000:]}"
        assert not list(run.glob("checkpoint_*"))
