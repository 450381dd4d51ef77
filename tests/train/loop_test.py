"""The embedded runner on a toy SeqIO task: learns, stops, resumes to the bit, refuses what does not fit."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest
import seqio
import tensorflow as tf

from cotdistill_jax import checkpoints, corpus, features, losses, network
from cotdistill_jax.benchmarks import arith
from cotdistill_jax.train import loop, metrics_file

TASK = "loop_test_toy"
LENGTHS = {"inputs": 96, "targets": 96}
CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def _examples(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    problems = arith.load(split, 64)
    return tf.data.Dataset.from_tensor_slices(
        {
            "inputs": [f"Q: {problem.question} A:" for problem in problems],
            "targets": [f"The answer is {problem.gold}" for problem in problems],
        }
    )


@pytest.fixture(autouse=True, scope="module")
def toy_task():
    vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()), extra_ids=0)
    seqio.TaskRegistry.add(
        TASK,
        source=seqio.FunctionDataSource(_examples, splits=["train", "validation"]),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
            features.guard_lengths,
        ],
        output_features=features.text_features(vocabulary),
    )
    yield
    seqio.TaskRegistry.remove(TASK)


def _train(model_dir, **changes):
    settings = dict(
        model_dir=model_dir,
        network_config=CONFIG,
        mixture_or_task_name=TASK,
        task_feature_lengths=LENGTHS,
        total_steps=6,
        batch_size=4,
        optimizer=optax.adamw(1e-2),
        save_period=2,
        log_period=1,
        tensorboard=False,
        progress=False,
    )
    return loop.train(**{**settings, **changes})


def _params(model_dir):
    return checkpoints.load_model(model_dir).params


def test_loss_falls_and_every_artefact_is_there(tmp_path):
    result = _train(tmp_path, total_steps=20, tensorboard=True)
    assert result == (20, True)
    lines = metrics_file.read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[0]["num_examples"] > 4  # packed: more examples than rows
    counts = json.loads((tmp_path / "data_counts.json").read_text())[TASK]
    assert counts["examples"] == counts["kept"] == 64
    assert any((tmp_path / "tensorboard").iterdir())
    model = checkpoints.load_model(tmp_path)
    assert (model.step, model.config.emb_dim) == (20, 16)


def test_a_run_continued_from_a_checkpoint_equals_an_uninterrupted_one(tmp_path):
    _train(tmp_path / "whole")
    _train(tmp_path / "parts", total_steps=4)
    _train(tmp_path / "parts")
    jax.tree.map(
        np.testing.assert_array_equal, _params(tmp_path / "whole"), _params(tmp_path / "parts")
    )

    def losses_of(name):
        return [(line["step"], line["loss"]) for line in metrics_file.read_metrics(tmp_path / name)]

    assert losses_of("whole") == losses_of("parts")


def test_dropout_continues_with_the_same_keys(tmp_path):
    config = network.T5Config(**{**vars(CONFIG), "dropout_rate": 0.3})
    _train(tmp_path / "whole", network_config=config)
    _train(tmp_path / "parts", network_config=config, total_steps=2)
    _train(tmp_path / "parts", network_config=config)
    jax.tree.map(
        np.testing.assert_array_equal, _params(tmp_path / "whole"), _params(tmp_path / "parts")
    )


def test_microbatches_give_the_gradient_of_the_whole_batch(tmp_path):
    _train(tmp_path / "one", optimizer=optax.sgd(0.1), total_steps=2)
    _train(tmp_path / "two", optimizer=optax.sgd(0.1), total_steps=2, num_microbatches=2)
    # Sums in another order: float32 rounding only.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
        _params(tmp_path / "one"),
        _params(tmp_path / "two"),
    )


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    def poisoned_after_3(step):
        return jax.numpy.where(step < 3, 1e-3, np.nan)

    with pytest.raises(
        loop.NonFiniteLossError, match="a parameter is NaN or infinite after step 4"
    ):
        _train(tmp_path, optimizer=optax.sgd(poisoned_after_3))
    # The 4th update made the parameters NaN: seen when step 4 is to be saved, before the loss of step 5 shows it.
    assert checkpoints.list_steps(tmp_path)[:1] == [2]
    newest = checkpoints.load_model(tmp_path / "checkpoint_2")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(newest.params))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mixture_or_task_name="loop_test_tay"), "unknown task or mixture.*loop_test_toy"),
        (dict(batch_size=6, num_microbatches=4), "batch_size = 6 over num_microbatches = 4"),
        (dict(mesh_shape=(2, 1)), r"shape \(2, 1, 1\) needs 2 devices, got 1"),
        (dict(task_feature_lengths={"inputs": 8, "targets": 8}), "none of the first 64 examples"),
        (
            dict(network_config=network.T5Config(**{**vars(CONFIG), "vocab_size": 100})),
            "vocabulary of 512 ids, the network 100",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        _train(tmp_path, **changes)
    assert checkpoints.list_steps(tmp_path) == []


def test_another_network_in_the_same_folder_is_refused(tmp_path):
    _train(tmp_path, total_steps=2)
    wider = network.T5Config(**{**vars(CONFIG), "emb_dim": 32})
    with pytest.raises(ValueError, match=r"network\.emb_dim is 16, this run has 32"):
        _train(tmp_path, network_config=wider)


def test_another_optimizer_in_the_same_folder_is_refused(tmp_path):
    _train(tmp_path, total_steps=2)
    with pytest.raises(
        ValueError, match="does not fit this run's network and optimizer: not expected"
    ):
        _train(tmp_path, optimizer=optax.sgd(0.1))


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="run folder can't be written") as raised:
        _train(tmp_path / "file" / "run")
    assert raised.value.filename.endswith("run")


def test_distribution_matching_without_teacher_features_is_refused(tmp_path):
    with pytest.raises((ValueError, KeyError), match="teacher"):
        _train(tmp_path, loss_fn=losses.distribution_matching)


@pytest.mark.slow
def test_sigterm_saves_and_the_next_call_continues(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('loop_test', {os.fspath(pathlib.Path(__file__))!r})\n"
        "test = importlib.util.module_from_spec(spec); spec.loader.exec_module(test)\n"
        "next(test.toy_task.__wrapped__())\n"
        f"print(test._train({os.fspath(tmp_path / 'run')!r}, total_steps=100_000, save_period=50_000), flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / metrics_file.METRICS_FILE
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 500):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "finished=False" in output
    (stopped,) = checkpoints.list_steps(tmp_path / "run")
    _train(tmp_path / "run", total_steps=stopped + 3)
    assert [line["step"] for line in metrics_file.read_metrics(tmp_path / "run")] == list(
        range(1, stopped + 4)
    )
