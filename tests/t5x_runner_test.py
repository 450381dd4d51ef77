"""T5X's own commands on the project's leaves: the same losses, checkpoints and accuracies as the embedded runner's.

The commands are real; each runs in a process of its own (`t5x_commands` in conftest.py). Runs of the two leaves are made
once and shared: 8 steps of a network of 20 thousand parameters. Skipped where t5x is not importable.
"""

import json
import os
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto import event_pb2

from cotdistill_jax.train import metrics_file

pytestmark = [pytest.mark.t5x, pytest.mark.slow]

# Both runners trace one network and one loss, but XLA compiles two programs, whose sums run in another order: float32
# rounding, which 8 steps of an optimizer that divides by the gradient's size make larger.
SAME = 2e-5

TASKS = """\
import numpy as np, seqio, tensorflow as tf
from cotdistill_jax import corpus, features
from cotdistill_jax.benchmarks import arith

def examples(split, shuffle_files, seed=None):
    problems = arith.load(split, 48)
    answers = ["The answer is 7" if number % 3 else "The answer is 8" for number in range(48)]
    return tf.data.Dataset.from_tensor_slices({
        "inputs": [f"Q: {problem.question} A:" for problem in problems], "targets": answers})

def accuracy(targets, predictions):
    return {"accuracy": 100 * float(np.mean([a == b for a, b in zip(targets, predictions)]))}

vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()), extra_ids=0)

def add(name, output_features):
    seqio.TaskRegistry.add(
        name, source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, features.guard_lengths],
        output_features=output_features, metric_fns=[accuracy])

add("t5x_runner_toy", features.text_features(vocabulary))
"""

TINY = """
EMB_DIM = 16
NUM_HEADS = 4
HEAD_DIM = 8
MLP_DIM = 32
NUM_LAYERS = 1
BATCH_SIZE = 8
WARMUP_STEPS = 1
COUNT_EXAMPLES = 20
TRAIN_STEPS = 8
SAVE_PERIOD = 4
EVAL_PERIOD = 4
LOG_PERIOD = 1
EVAL_BATCH_SIZE = 8
COMPILATION_CACHE_DIR = None
"""

# A leaf for each loss, with another optimizer each.
LEAVES = {
    "distribution_matching": f"""
include 'gin/experiments/arith_quickstart.gin'
{TINY}
EVAL_MIXTURE_OR_TASK_NAME = 'arith_zero_shot_cot_v1'
EVAL_NUM_EXAMPLES = 8
MIXTURE_OR_TASK_NAME = 'arith_seed_3b_v2'
NUM_LOSS_CHUNKS = 2
ATTENTION_BLOCK = 32
EVAL_FEATURE_LENGTHS = {{'inputs': 384, 'targets': 40}}
""",
    "sample_matching": f"""
from __gin__ import dynamic_registration
import t5x_runner_tasks
include 'gin/defaults.gin'
include 'gin/models/tiny.gin'
{TINY}
MIXTURE_OR_TASK_NAME = 't5x_runner_toy'
TASK_FEATURE_LENGTHS = {{'inputs': 96, 'targets': 16}}
EVAL_FEATURE_LENGTHS = {{'inputs': 96, 'targets': 16}}
EVAL_NUM_EXAMPLES = None
LEARNING_RATE = 0.02
""",
}
EMBEDDED = ("cotdistill_jax.train", "gin/runs/finetune.gin")
T5X = ("t5x.train", "gin/t5x/finetune.gin")


class Runs:
    """The runs of this file, each in a folder of its own."""

    def __init__(self, commands, folder):
        self.commands = commands
        self.folder = folder
        (commands.folder / "modules" / "t5x_runner_tasks.py").write_text(TASKS)
        for name, text in LEAVES.items():
            (folder / f"{name}.gin").write_text(text)

    def arguments(self, leaf, gin_file, run, **macros):
        macros = {"MODEL_DIR": f"'{run}'", **macros}
        return [
            f"--gin_file={self.folder / leaf}.gin",
            f"--gin_file={gin_file}",
            "--gin_search_paths=.",
            *(f"--gin.{name}={value}" for name, value in macros.items()),
        ]

    def run(self, command, leaf, run, devices=1, **macros):
        """Returns the exit status and what was printed."""
        module, gin_file = command
        arguments = self.arguments(leaf, gin_file, run, **macros)
        self.commands.start(
            module, arguments, XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}"
        )
        return self.commands.wait()

    def train(self, command, leaf, run, devices=1, **macros):
        """Returns the run folder of a run that ended well."""
        status, output = self.run(command, leaf, run, devices, **macros)
        assert status == 0, output[-4000:]
        return run


@pytest.fixture(scope="module")
def runs(t5x_commands, tmp_path_factory):
    return Runs(t5x_commands, tmp_path_factory.mktemp("t5x_runs"))


@pytest.fixture(scope="module", params=LEAVES)
def leaf(request):
    return request.param


@pytest.fixture(scope="module")
def embedded(runs, leaf):
    task = {"distribution_matching": "arith_zero_shot_cot_v1", "sample_matching": "t5x_runner_toy"}
    best = {"KEEP_BEST": "1", "KEEP_BEST_METRIC": f"'eval/{task[leaf]}/accuracy'"}
    return runs.train(EMBEDDED, leaf, runs.folder / f"embedded_{leaf}", **best)


@pytest.fixture(scope="module")
def under_t5x(runs, leaf):
    return runs.train(T5X, leaf, runs.folder / f"t5x_{leaf}")


def scalars(run, part="train"):
    """Returns {name: {step: value}} of what T5X wrote for TensorBoard."""
    found = {}
    for path in (run / part).glob("events*"):
        for record in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                if array.dtype == np.float32:
                    found.setdefault(value.tag, {})[event.step] = float(array)
    return found


def losses_of(run):
    """Returns step -> loss of an embedded run."""
    lines = metrics_file.read_metrics(run)
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def cut(run, copy, step):
    """Copies a run as it was when it had saved `step`, T5X's events left out."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("train"))
    for folder in copy.glob("checkpoint_*"):
        if int(folder.name.removeprefix("checkpoint_")) > step:
            shutil.rmtree(folder)
    return copy


def steps(values, first=1):
    return [values[step] for step in range(first, 9)]


def test_both_runners_have_the_same_losses_step_by_step(embedded, under_t5x):
    ours = metrics_file.read_metrics(embedded)
    theirs = scalars(under_t5x)
    for name, their_name in {
        "loss": "loss",
        "nll": "nll_per_token",
        "token_accuracy": "token_accuracy",
        "teacher_share": "teacher_fraction",
    }.items():
        expected = {line["step"]: line[name] for line in ours if name in line}
        np.testing.assert_allclose(
            steps(theirs[their_name]), steps(expected), rtol=SAME, atol=1e-7, err_msg=name
        )
    losses = steps(losses_of(embedded))
    assert len(set(losses)) == 8
    assert losses[-1] < losses[0]


def test_both_runners_have_the_same_accuracies(embedded, under_t5x, leaf):
    task = "t5x_runner_toy" if leaf == "sample_matching" else "arith_zero_shot_cot_v1"
    path = under_t5x / "inference_eval" / f"{task}-metrics.jsonl"
    theirs = [json.loads(line) for line in path.read_text().splitlines()]
    ours = [
        line[f"eval/{task}/accuracy"]
        for line in metrics_file.read_metrics(embedded)
        if f"eval/{task}/accuracy" in line
    ]
    assert [line["accuracy"] for line in theirs] == pytest.approx(ours)
    assert [line["step"] for line in theirs] == [4, 8]


def test_checkpoints_go_from_one_runner_to_the_other_and_back(runs, leaf, embedded, under_t5x):
    expected = losses_of(embedded)
    from_t5x = cut(under_t5x, runs.folder / f"t5x_then_embedded_{leaf}", 4)
    runs.train(EMBEDDED, leaf, from_t5x)
    continued = losses_of(from_t5x)
    assert sorted(continued) == [5, 6, 7, 8]
    np.testing.assert_allclose(steps(continued, 5), steps(expected, 5), rtol=SAME)

    to_and_fro = cut(embedded, runs.folder / f"embedded_then_t5x_{leaf}", 4)
    assert {path.name for path in (to_and_fro / "checkpoint_4").iterdir()} >= {"notes", "metrics"}
    runs.train(T5X, leaf, to_and_fro)
    continued = scalars(to_and_fro)["loss"]
    assert sorted(continued) == [5, 6, 7, 8]
    np.testing.assert_allclose(steps(continued, 5), steps(expected, 5), rtol=SAME)

    shutil.rmtree(to_and_fro / "checkpoint_8")
    runs.train(EMBEDDED, leaf, to_and_fro)
    np.testing.assert_allclose(steps(losses_of(to_and_fro), 5), steps(expected, 5), rtol=SAME)


def test_weights_alone_start_a_run_with_another_optimizer_and_that_is_said(runs):
    adamw = runs.folder / "weights_of_adamw"
    runs.train(EMBEDDED, "sample_matching", adamw, TRAIN_STEPS=4, EVAL_PERIOD="None")
    adafactor = (
        f"include '{runs.folder}/sample_matching.gin'\ninclude 'gin/optimizers/adafactor.gin'\n"
        f"INITIAL_CHECKPOINT_PATH = '{adamw}'\nTRAIN_STEPS = 2\nSAVE_PERIOD = 2\nEVAL_PERIOD = None\n"
        "WARMUP_STEPS = 1\n"
    )
    (runs.folder / "adafactor.gin").write_text(adafactor)
    found = []
    for command in (EMBEDDED, T5X):
        run = runs.folder / f"adafactor_{command[0]}"
        status, output = runs.run(command, "adafactor", run)
        assert status == 0, output[-3000:]
        assert f"starts from the weights of {adamw}" in output
        assert "step and optimizer state are new" in output
        found.append(losses_of(run) if command is EMBEDDED else scalars(run)["loss"])
    assert found[0].keys() == found[1].keys() == {1, 2}
    assert list(found[0].values()) == pytest.approx(list(found[1].values()), rel=SAME)
    assert found[0][1] < losses_of(adamw)[1]


def test_a_killed_run_ends_like_one_that_was_not(runs):
    leaf = "sample_matching"
    whole = runs.train(T5X, leaf, runs.folder / "t5x_whole", SAVE_PERIOD=2)
    run = runs.folder / "t5x_killed"
    pid = runs.commands.start("t5x.train", runs.arguments(leaf, T5X[1], run, SAVE_PERIOD=2))
    deadline = time.monotonic() + 300
    while not (run / "checkpoint_2").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    status, output = runs.commands.wait()
    assert status == -signal.SIGKILL, output[-3000:]
    assert not (run / "checkpoint_8").exists()
    (run / "checkpoint_7.orbax-checkpoint-tmp" / "state").mkdir(parents=True)  # half-written
    saved = max(int(path.name.rpartition("_")[2]) for path in run.glob("checkpoint_?"))
    assert saved in (2, 4, 6)
    shutil.rmtree(run / "train")
    runs.train(T5X, leaf, run, SAVE_PERIOD=2, KEEP_CHECKPOINTS=1, KEEP_EVERY_STEPS=4)
    kept = {path.name for path in run.glob("checkpoint_[1-9]")}  # T5X saves step 0, too
    assert kept == {"checkpoint_4", "checkpoint_8"}
    assert sorted(scalars(run)["loss"]) == list(range(saved + 1, 9))
    expected = scalars(whole)["loss"]
    assert scalars(run)["loss"] == {step: expected[step] for step in range(saved + 1, 9)}


@pytest.mark.parametrize("mesh", [(4, 2), (2, 4)])
def test_eight_devices_and_microbatches_have_the_losses_of_one(runs, mesh):
    whole = runs.folder / "embedded_distribution_matching"
    if not whole.exists():
        runs.train(EMBEDDED, "distribution_matching", whole)
    run = runs.folder / f"t5x_mesh_{mesh[0]}_{mesh[1]}"
    runs.train(
        T5X, "distribution_matching", run, 8,
        MESH_SHAPE=mesh, NUM_MICROBATCHES=2, EVAL_PERIOD="None", SAVE_PERIOD=8,
    )  # fmt: skip
    np.testing.assert_allclose(steps(scalars(run)["loss"]), steps(losses_of(whole)), rtol=SAME)


def test_a_loss_that_is_not_finite_ends_the_run_and_no_checkpoint_follows(runs):
    for command in (EMBEDDED, T5X):
        run = runs.folder / f"nan_{command[0]}"
        status, output = runs.run(
            command, "sample_matching", run, LEARNING_RATE=1e38, SAVE_PERIOD=1, EVAL_PERIOD="None"
        )
        assert status != 0
        assert "NonFiniteLossError: train: " in output and "Lower LEARNING_RATE" in output
        saved = [int(path.name.rpartition("_")[2]) for path in run.glob("checkpoint_?")]
        assert max(saved) < 4


def test_t5x_eval_and_t5x_infer_on_what_either_runner_trained(runs):
    run = runs.folder / "to_evaluate"
    runs.train(EMBEDDED, "sample_matching", run, TRAIN_STEPS=60, EVAL_PERIOD=60, SAVE_PERIOD=60)
    (expected,) = (
        line["eval/t5x_runner_toy/accuracy"]
        for line in metrics_file.read_metrics(run)
        if "eval/t5x_runner_toy/accuracy" in line
    )
    assert 0 < expected < 100  # so that two wrong readings would hardly agree
    runs.train(("t5x.eval", "gin/t5x/eval.gin"), "sample_matching", run)
    path = run / "t5x_eval" / "inference_eval" / "t5x_runner_toy-metrics.jsonl"
    assert json.loads(path.read_text())["accuracy"] == pytest.approx(expected)
    runs.train(
        ("t5x.infer", "gin/t5x/infer.gin"), "sample_matching", run,
        CHECKPOINT_PATH=f"'{run}/checkpoint_60'",
    )  # fmt: skip
    (path,) = (run / "t5x_infer").glob("t5x_runner_toy-predict.jsonl-*-of-?????")
    lines = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    assert len(lines) == 48
    right = [line["prediction"] == line["inputs"]["targets_pretokenized"] for line in lines]
    assert 100 * np.mean(right) == pytest.approx(expected)
