"""The embedded runner on a toy SeqIO task: learns, stops, resumes to the bit, refuses what does not fit."""

import json
import os
import signal
import time

import jax
import numpy as np
import optax
import pytest

from cotdistill_jax import checkpoints, features, losses
from cotdistill_jax.train import metrics_file, run_folder, run_time, window


def _params(model_dir):
    return checkpoints.load_model(model_dir).params


def test_loss_falls_and_every_artefact_is_there(tmp_path, train_toy):
    result = train_toy(tmp_path, total_steps=20, tensorboard=True, count_examples=100)
    assert result == (20, True)
    lines = metrics_file.read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[0]["num_examples"] > 4  # packed: more examples than rows
    counts = json.loads((tmp_path / "data_counts.json").read_text())["toy_a"]
    assert counts["examples"] == counts["kept"] == 64
    assert any((tmp_path / "tensorboard").iterdir())
    model = checkpoints.load_model(tmp_path)
    assert (model.step, model.config.emb_dim) == (20, 16)


def test_examples_that_are_too_long_are_named(tmp_path, capsys):
    summary = features.LengthSummary(1125, {50.0: 600})
    reports = {
        "long": features.LengthReport(400, 3, 1, 397, summary, summary, 6.0),
        "short": features.LengthReport(400, 0, 0, 400, summary, summary, 114.0),
    }
    run_folder.write_data_counts(tmp_path, reports, {"long": 0.05, "short": 0.95})
    counts = json.loads((tmp_path / "data_counts.json").read_text())
    assert counts["long"]["kept"] == 397 and counts["short"]["share_of_loss"] == 0.95
    shares, said = capsys.readouterr().out.splitlines()
    assert "task long: 3 of 400 examples" in said and "3 in inputs (longest 1,125 tokens)" in said
    assert shares.endswith("5.00% long, 95.00% short")


def test_a_run_continued_from_a_checkpoint_equals_an_uninterrupted_one(tmp_path, train_toy, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    dropout = {"dropout_rate": 0.3}
    train_toy(whole, dropout)
    train_toy(parts, dropout, total_steps=4)
    train_toy(parts, dropout)
    jax.tree.map(np.testing.assert_array_equal, _params(whole), _params(parts))

    def losses_of(run):
        return [(line["step"], line["loss"]) for line in metrics_file.read_metrics(run)]

    assert losses_of(whole) == losses_of(parts)
    assert "compiled again" not in capsys.readouterr().out


def test_microbatches_give_the_gradient_of_the_whole_batch(tmp_path, train_toy):
    train_toy(tmp_path / "one", optimizer=optax.sgd(0.1), total_steps=2)
    train_toy(tmp_path / "two", optimizer=optax.sgd(0.1), total_steps=2, num_microbatches=2)
    # Sums in another order: float32 rounding only.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
        _params(tmp_path / "one"),
        _params(tmp_path / "two"),
    )


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, train_toy):
    def poisoned_after_3(step):
        return jax.numpy.where(step < 3, 1e-3, np.nan)

    with pytest.raises(
        window.NonFiniteLossError, match="a parameter is NaN or infinite after step 4"
    ):
        train_toy(tmp_path, optimizer=optax.sgd(poisoned_after_3))
    # The 4th update made the parameters NaN: seen when step 4 is to be saved, before the loss of step 5 shows it.
    assert checkpoints.list_steps(tmp_path)[:1] == [2]
    newest = checkpoints.load_model(tmp_path / "checkpoint_2")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(newest.params))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(mixture_or_task_name="toy_aa"),
            "unknown task or mixture.*toy_a.*COTDISTILL_TFDS_DIR",
        ),
        (dict(batch_size=6, num_microbatches=4), "batch_size = 6 over num_microbatches = 4"),
        (dict(mesh_shape=(2, 1)), r"shape \(2, 1, 1\) needs 2 devices, got 1"),
        (
            dict(task_feature_lengths={"inputs": 8, "targets": 8}, count_examples=64),
            "none of the first 64 examples",
        ),
        (
            dict(task_feature_lengths={"inputs": 30, "targets": 32}, count_examples=64),
            r"of the first 64 of toy_a \(.* in inputs, the longest 40 tokens; 0 in targets, the longest 4\)"
            r"\. All fit \{'inputs': 40, 'targets': 4\} .* ON_OVERLONG = 'drop'",
        ),
        (
            dict(on_overlong="cut", count_examples=64),
            "ON_OVERLONG is 'cut'; allowed are 'stop' and",
        ),
        (dict(config={"vocab_size": 100}), "vocabulary of 512 ids, the network 100"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path, train_toy, changes, message):
    with pytest.raises(ValueError, match=message):
        train_toy(tmp_path, **changes)
    assert checkpoints.list_steps(tmp_path) == []


def test_examples_that_are_too_long_are_left_out_where_the_run_says_so(tmp_path, train_toy, capsys):
    lengths = {"inputs": 30, "targets": 32}
    train_toy(
        tmp_path, task_feature_lengths=lengths, total_steps=1, count_examples=64, on_overlong="drop"
    )
    counts = json.loads((tmp_path / "data_counts.json").read_text())["toy_a"]
    assert 0 < counts["kept"] == 64 - counts["over_long_inputs"] < 64
    assert "are left out, none is cut" in capsys.readouterr().out


def test_another_network_or_optimizer_in_the_same_folder_is_refused(tmp_path, train_toy):
    train_toy(tmp_path, total_steps=2)
    with pytest.raises(ValueError, match=r"network\.emb_dim is 16, this run has 32"):
        train_toy(tmp_path, {"emb_dim": 32})
    with pytest.raises(
        ValueError, match="does not fit this run's network and optimizer: not expected"
    ):
        train_toy(tmp_path, optimizer=optax.sgd(0.1))


def test_an_unwritable_folder_is_named(tmp_path, train_toy):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="run folder can't be written") as raised:
        train_toy(tmp_path / "file" / "run")
    assert raised.value.filename.endswith("run")


def test_distribution_matching_without_teacher_features_is_refused(tmp_path, train_toy):
    with pytest.raises((ValueError, KeyError), match="teacher"):
        train_toy(tmp_path, loss_fn=losses.distribution_matching)


@pytest.mark.slow
def test_sigterms_save_one_checkpoint_and_the_same_command_continues(tmp_path, runner):
    run = tmp_path / "run"
    endless = {"TRAIN_STEPS": 100_000, "SAVE_PERIOD": 50_000, "LOG_PERIOD": 1}
    pid = runner.start_toy(run, BATCH_SIZE=4, schedule="constant", **endless)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and _last_step(run) < 3:
        time.sleep(0.02)
    os.kill(pid, signal.SIGTERM)
    asked = time.monotonic()
    # Impatient: another one before the save, and one while it is under way.
    os.kill(pid, signal.SIGTERM)
    while time.monotonic() < deadline and not list(run.glob("checkpoint_*")):
        time.sleep(0.001)
    os.kill(pid, signal.SIGTERM)
    said = runner.finish(pid, run, os.EX_TEMPFAIL)
    assert time.monotonic() - asked < 30  # what clusters and clouds give at least
    (stopped,) = checkpoints.list_steps(run)
    assert f"stopped by SIGTERM after step {stopped} of 100000; its checkpoint is saved" in said
    assert "run the same command to continue" in said
    total = stopped + 3
    endless = {**endless, "TRAIN_STEPS": total}
    flags = ("--allow_config_changes",)
    said = runner.finish(
        runner.start_toy(run, flags, BATCH_SIZE=4, schedule="constant", **endless), run
    )
    assert f"continuing {run} after step {stopped} of {total}" in said
    lines = metrics_file.read_metrics(run)
    assert [line["step"] for line in lines] == list(range(1, total + 1))
    whole = tmp_path / "whole"
    begun = time.monotonic()
    pid = runner.start_toy(whole, BATCH_SIZE=4, schedule="constant", **endless)
    while time.monotonic() < begun + 200 and "train: done" not in runner.said(whole):
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    said = runner.finish(pid, whole)
    jax.tree.map(np.testing.assert_array_equal, _params(run), _params(whole))
    (start,) = run_time.read(whole)
    assert sum(start.seconds.values()) == pytest.approx(seconds, rel=0.02)
    assert all(start.seconds[part] > 0 for part in ("starting", "compiling", "training", "saving"))
    assert f"train: {run_time.in_words([start])}\n" in said
    assert [start.ended for start in run_time.read(run)] == ["stopped", "done"]


@pytest.mark.slow
def test_a_run_gets_a_mesh_of_eight_devices_and_says_which(tmp_path, runner):
    run = tmp_path / "run"
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    macros = {"BATCH_SIZE": 16, "NUM_MICROBATCHES": 4, "TRAIN_STEPS": 1, "WARMUP_STEPS": 0}
    pid = runner.start_toy(run, environment=environment, schedule="constant", **macros)
    said = runner.finish(pid, run)
    assert "train: MESH_SHAPE = (4, 1, 2) (data, fsdp, model) of 8 devices: " in said
    assert "NUM_MICROBATCHES = 2 would put all of them along data or fsdp" in said
    topology = json.loads((run / "manifest.json").read_text())["topology"]
    assert topology["mesh"] == {"data": 4, "fsdp": 1, "model": 2}
    assert checkpoints.list_steps(run) == [1]


def _last_step(run):
    lines = metrics_file.read_metrics(run)
    return lines[-1]["step"] if lines else 0
