"""Under T5X, a Hugging Face folder starts a run; T5X's own gin files start from converted weights, with the bindings that are said."""

import json
import pathlib
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from cotdistill_jax import corpus, network
from cotdistill_jax.checkpoints import conversion, huggingface, t5x_legacy, train_state

pytestmark = [pytest.mark.t5x, pytest.mark.slow]

ROOT = pathlib.Path(__file__).parents[1]
TASKS = "t5x_weights_toy"
MODULE = f"""\
import seqio, tensorflow as tf
from cotdistill_jax import corpus, features
from cotdistill_jax.benchmarks import arith

def examples(split, shuffle_files, seed=None):
    problems = arith.load(split, 32)
    return tf.data.Dataset.from_tensor_slices({{
        "inputs": [f"Q: {{problem.question}} A:" for problem in problems],
        "targets": [f"The answer is {{problem.gold}}" for problem in problems]}})

vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()), extra_ids=0)
seqio.TaskRegistry.add(
    "{TASKS}", source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, features.guard_lengths],
    output_features=features.text_features(vocabulary), metric_fns=[])
"""
# That of T5X's t5_1_1/tiny.gin.
CONFIG = network.T5Config(
    vocab_size=512, emb_dim=8, num_heads=4, head_dim=3, mlp_dim=16, num_encoder_layers=2, num_decoder_layers=2,
)  # fmt: skip
OURS = f"""
from __gin__ import dynamic_registration
import {TASKS}
include 'gin/defaults.gin'
include 'gin/models/tiny.gin'
EMB_DIM = 8
NUM_HEADS = 4
HEAD_DIM = 3
MLP_DIM = 16
MIXTURE_OR_TASK_NAME = '{TASKS}'
TASK_FEATURE_LENGTHS = {{'inputs': 96, 'targets': 16}}
BATCH_SIZE = 8
TRAIN_STEPS = 2
WARMUP_STEPS = 1
LOG_PERIOD = 1
SAVE_PERIOD = 2
COUNT_EXAMPLES = 0
SAVE_INITIAL = True
COMPILATION_CACHE_DIR = None
"""
THEIRS = f"""
from __gin__ import dynamic_registration
import __main__ as train_script
import seqio
import {TASKS}
from t5x import utils
from t5x.examples.t5 import network
include 't5x/examples/t5/t5_1_1/tiny.gin'
include 't5x/configs/runs/finetune.gin'
seqio.SentencePieceVocabulary.sentencepiece_model_file = '{corpus.arith_vocabulary()}'
seqio.SentencePieceVocabulary.extra_ids = 0
network.T5Config.vocab_size = 512
MIXTURE_OR_TASK_NAME = '{TASKS}'
TASK_FEATURE_LENGTHS = {{'inputs': 96, 'targets': 16}}
USE_CACHED_TASKS = False
BATCH_SIZE = 8
TRAIN_STEPS = 2
train_script.train.train_eval_dataset_cfg = None
train_script.train.infer_eval_dataset_cfg = None
utils.SaveCheckpointConfig.period = 2
"""


@pytest.fixture(scope="module")
def weights(t5x_commands, tmp_path_factory):
    """A Hugging Face folder and its parameters."""
    (t5x_commands.folder / "modules" / f"{TASKS}.py").write_text(MODULE)
    rng = np.random.default_rng(0)
    shapes = train_state.abstract_params(CONFIG)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    folder = tmp_path_factory.mktemp("weights")
    huggingface.write(folder, CONFIG, params, corpus.arith_vocabulary(), 0)
    return folder, params


def _run(commands, module, run, files, bindings=(), **environment):
    arguments = [f"--gin_file={file}" for file in files]
    arguments += ["--gin_search_paths=.", f"--gin.MODEL_DIR='{run}'", *bindings]
    commands.start(module, arguments, **environment)
    status, said = commands.wait()
    assert status == 0, said[-3000:]
    return said


def test_a_folder_starts_a_run_of_either_runner(t5x_commands, weights, tmp_path):
    folder, params = weights
    (tmp_path / "leaf.gin").write_text(f"{OURS}INITIAL_CHECKPOINT_PATH = '{folder}'\n")
    here = {"HOME": str(tmp_path)}  # where the converted weights are kept
    for module, file in (("t5x.train", "gin/t5x/finetune.gin"), ("cotdistill_jax.train", "gin/runs/finetune.gin")):  # fmt: skip
        run = tmp_path / module
        said = _run(t5x_commands, module, run, [tmp_path / "leaf.gin", file], **here)
        assert "starts from the weights of" in said
        assert (f"converting {folder} for T5X, once" in said) == (module == "t5x.train")
        assert conversion.differences(t5x_legacy.read(str(run / "checkpoint_0")), params) == []


def test_t5x_starts_from_converted_weights_with_the_bindings_that_are_said(
    t5x_commands, weights, tmp_path
):
    folder, params = weights
    convert = [f"--input={folder}", f"--output={tmp_path / 'converted'}", "--to=t5x"]
    said = subprocess.run(
        [sys.executable, ROOT / "scripts" / "convert_checkpoint.py", *convert],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    said = said[said.index("T5X's own finetune.gin needs") :].replace("T5X's", "")
    bindings = [word for word in shlex.split(said) if word.startswith("--gin.")]
    assert len(bindings) == 2
    path = str(tmp_path / "converted" / "checkpoint_0")
    start = f"INITIAL_CHECKPOINT_PATH = {json.dumps(path)}\n"
    (tmp_path / "theirs.gin").write_text(THEIRS + start)
    _run(t5x_commands, "t5x.train", tmp_path / "run", [tmp_path / "theirs.gin"], bindings)
    begun = t5x_legacy.read(str(tmp_path / "run" / "checkpoint_0"))
    assert conversion.differences(begun, params) == []
    assert t5x_legacy.step_of(str(tmp_path / "run" / "checkpoint_2")) == 2
