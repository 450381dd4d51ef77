"""`t5x.eval` on a benchmark's task states what `python -m cotdistill_jax.inference` states of the same checkpoint."""

import json

import pytest

pytestmark = [pytest.mark.t5x, pytest.mark.slow, pytest.mark.real_data]

# Two answers out of three are 7, as are the targets: a network that learnt that much is right in 20 of 30.
TASKS = """\
import seqio, tensorflow as tf
from cotdistill_jax import benchmarks, features, seqio_tasks
from cotdistill_jax.inference import prompts

def examples(split, shuffle_files, seed=None):
    questions = benchmarks.load("svamp")
    prompt = prompts.build("zero_shot_cot", "svamp")
    return tf.data.Dataset.from_tensor_slices({
        "inputs": [prompt.render(question.question) for question in questions],
        "targets": ["The answer is 7"] * len(questions)})

seqio.TaskRegistry.add(
    "t5x_evaluation_toy", source=seqio.FunctionDataSource(examples, splits=["train"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, features.guard_lengths],
    output_features=features.text_features(seqio_tasks.vocabularies.t5()), metric_fns=[])
"""
LEAF = """
from __gin__ import dynamic_registration
import t5x_evaluation_tasks
include 'gin/defaults.gin'
include 'gin/models/tiny.gin'
VOCAB_SIZE = 32128
EMB_DIM = 16
NUM_HEADS = 2
HEAD_DIM = 8
MLP_DIM = 32
NUM_LAYERS = 1
BATCH_SIZE = 8
LEARNING_RATE = 0.02
WARMUP_STEPS = 1
TRAIN_STEPS = 30
SAVE_PERIOD = 30
COMPILATION_CACHE_DIR = None
MIXTURE_OR_TASK_NAME = 't5x_evaluation_toy'
TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 8}
EVAL_MIXTURE_OR_TASK_NAME = 'svamp_zero_shot_cot_eval_v1'
EVAL_FEATURE_LENGTHS = {'inputs': 64, 'targets': 8}
EVAL_NUM_EXAMPLES = None
"""


def test_both_evaluations_agree_and_too_short_lengths_stop_t5x(t5x_commands, tmp_path, data_dir):
    (t5x_commands.folder / "modules" / "t5x_evaluation_tasks.py").write_text(TASKS)
    (tmp_path / "leaf.gin").write_text(LEAF)
    data, run = tmp_path / "data", tmp_path / "run"
    (data / "svamp").mkdir(parents=True)
    (data / "t5").symlink_to(data_dir / "t5")  # the vocabulary
    records = [
        {"Body": f"Ann has {n} pens.", "Question": "How many?", "Answer": 7 if n % 3 else 8}
        for n in range(30)
    ]
    (data / "svamp" / "SVAMP.json").write_text(json.dumps(records))

    def command(module, *arguments):
        t5x_commands.start(module, arguments, COTDISTILL_DATA_DIR=str(data))
        return t5x_commands.wait()

    def gin(gin_file, *more):
        files = [f"--gin_file={path}" for path in (tmp_path / "leaf.gin", gin_file)]
        return [*files, "--gin_search_paths=.", f"--gin.MODEL_DIR='{run}'", *more]

    status, output = command("cotdistill_jax.train", *gin("gin/runs/finetune.gin"))
    assert status == 0, output[-3000:]
    status, output = command(
        "cotdistill_jax.inference", f"--checkpoint={run}", "--benchmarks=svamp", "--prompt=zero_shot_cot",
        f"--output_dir={tmp_path / 'ours'}", "--max_new_tokens=8",
    )  # fmt: skip
    assert status == 0, output[-3000:]
    split = "--gin.EVAL_SPLIT='test'"
    status, output = command("t5x.eval", *gin("gin/t5x/eval.gin", split))
    assert status == 0, output[-3000:]

    (path,) = (tmp_path / "ours").rglob("svamp.zero_shot_cot.jsonl")
    ours = [json.loads(line) for line in path.read_text().splitlines()]
    folder = run / "t5x_eval" / "inference_eval"
    path = folder / "svamp_zero_shot_cot_eval_v1-000030.jsonl"
    theirs = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["prediction"] for line in theirs] == [line["text"] for line in ours]
    metrics = json.loads((folder / "svamp_zero_shot_cot_eval_v1-metrics.jsonl").read_text())
    right = sum(line["correct"]["last_number"] for line in ours)
    assert 0 < right < 30
    assert metrics == {"step": 30, "accuracy": 100 * right / 30, "unparsed": 0}

    short = "--gin.EVAL_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}"
    status, output = command("t5x.eval", *gin("gin/t5x/eval.gin", split, short))
    assert status != 0
    message = "0 of the first 30 examples of svamp_zero_shot_cot_eval_v1 (test) fit"
    assert message in output, output[-3000:]
