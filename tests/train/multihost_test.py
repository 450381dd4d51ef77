"""Two processes of four simulated devices: the losses of one device, from its checkpoint and back to it; SIGTERM."""

import json
import os
import shutil
import signal
import socket
import time

import pytest

from cotdistill_jax import checkpoints
from cotdistill_jax.train import metrics_file

pytestmark = pytest.mark.multihost

MACROS = {
    "MIXTURE_OR_TASK_NAME": "'toy_a'", "BATCH_SIZE": 8, "LOG_PERIOD": 1, "SAVE_PERIOD": 2, "KEEP_CHECKPOINTS": None,
    "WARMUP_STEPS": 2, "TRAIN_STEPS": 6,
}  # fmt: skip
CHANGES = ("--allow_config_changes",)
# Sums over devices run in another order: float32 rounding, a few steps of it.
TOLERANCE = 2e-5


def _start(runner, run, devices, flags=(), **macros):
    environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return runner.start_toy(run, flags, environment, schedule="constant", **{**MACROS, **macros})


def _start_two(runner, run, flags=(), indices=(0, 1), of_second=None, **macros):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = (*flags, f"--coordinator_address=localhost:{port}", "--process_count=2")
    macros = {"COMPILATION_CACHE_DIR": None, **macros}
    return [
        _start(
            runner,
            run,
            4,
            (*flags, f"--process_index={index}"),
            **{**macros, **(of_second if index and of_second else {})},
        )
        for index in indices
    ]


def _losses(run):
    return [line["loss"] for line in metrics_file.read_metrics(run)]


@pytest.fixture(scope="module")
def one(tmp_path_factory, runner):
    """The folder of six steps on one device of one process, a checkpoint after every other one."""
    run = tmp_path_factory.mktemp("one_device") / "run"
    runner.finish(_start(runner, run, 1), run)
    return run


@pytest.mark.slow
def test_two_processes_continue_the_run_of_one_and_one_process_theirs(tmp_path, runner, one):
    run = tmp_path / "run"
    shutil.copytree(one, run, ignore=shutil.ignore_patterns("checkpoint_4", "checkpoint_6"))
    for pid in _start_two(runner, run, CHANGES, MESH_SHAPE="(2, 2, 2)", TRAIN_STEPS=4):
        said = runner.finish(pid, run)
    assert "this run has {'num_hosts': 2, 'mesh': {'data': 2, 'fsdp': 2, 'model': 2}" in said
    assert "the batches are the same, in the same order" in said
    assert "compiled again" not in said
    assert checkpoints.list_steps(run) == [2, 4]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["topology"]["num_hosts"] == 2
    assert manifest["topology"]["num_devices"] == 8
    said = runner.finish(_start(runner, run, 1, CHANGES), run)
    assert "the checkpoint is from {'num_hosts': 2" in said
    assert [line["step"] for line in metrics_file.read_metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert _losses(run)[:2] == _losses(one)[:2]
    assert _losses(run) == pytest.approx(_losses(one), rel=TOLERANCE)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_a_signal_stops_both_after_the_same_step(
    tmp_path, runner, one
):
    run = tmp_path / "run"
    pids = _start_two(runner, run, MESH_SHAPE="(8, 1, 1)", TRAIN_STEPS=100_000, SAVE_PERIOD=50_000)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(metrics_file.read_metrics(run)) < 6:
        time.sleep(0.05)
    os.kill(pids[1], signal.SIGTERM)
    for pid in pids:
        said = runner.finish(pid, run, os.EX_TEMPFAIL)
    (stopped,) = checkpoints.list_steps(run)
    assert f"stopped by SIGTERM after step {stopped} of 100000" in said
    assert metrics_file.read_metrics(run)[-1]["step"] == stopped
    assert _losses(run)[:6] == pytest.approx(_losses(one), rel=TOLERANCE)


def test_two_processes_that_are_asked_for_different_things_say_which(tmp_path, runner):
    run = tmp_path / "run"
    for pid in _start_two(runner, run, of_second={"LEARNING_RATE": 0.5, "BATCH_SIZE": 16}):
        assert runner.status(pid) == 1
    lines = [line for line in runner.said(run).splitlines() if "differs" in line]
    assert len(lines) == 2
    for line in lines:
        assert "multihost: process 1 on " in line
        assert ": BATCH_SIZE: 8 -> 16; LEARNING_RATE: 0.001 -> 0.5; start all processes" in line
    assert not run.exists()


def test_a_process_whose_other_one_never_comes_says_so(tmp_path, runner):
    run = tmp_path / "run"
    flags = ("--connect_timeout_seconds=2",)
    for index, said in (
        (0, "1 of 2 are missing, these came: 0 on "),
        (1, "did not find process 0"),
    ):
        (pid,) = _start_two(runner, run, flags, indices=(index,))
        assert runner.status(pid) == 1
        (line,) = [line for line in runner.said(run).splitlines() if said in line]
        assert "multihost: not all processes came" in line


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_two_processes_evaluate_a_checkpoint_as_one_device_does(tmp_path, runner, scan):
    macros = {
        "TRAIN_STEPS": 2, "SCAN_LAYERS": scan, "NUM_LAYERS": 2, "LEARNING_RATE": 1e-6, "EVAL_MIXTURE_OR_TASK_NAME": "'toy_said'",
        "EVAL_FEATURE_LENGTHS": {"inputs": 96, "targets": 32}, "EVAL_NUM_EXAMPLES": 30, "EVAL_BATCH_SIZE": 12,
    }  # fmt: skip
    trained = tmp_path / "trained"
    runner.finish(_start(runner, trained, 1, **macros), trained)
    macros["EVAL_PERIOD"] = 2
    found = {}
    for name, mesh in (("one", None), ("rows", "(8, 1, 1)"), ("all", "(2, 2, 2)")):
        run = tmp_path / name
        shutil.copytree(trained, run)
        if mesh is None:
            runner.finish(_start(runner, run, 1, CHANGES, **macros), run)
        else:
            for pid in _start_two(runner, run, CHANGES, MESH_SHAPE=mesh, **macros):
                runner.finish(pid, run)
        (line,) = [
            line for line in metrics_file.read_metrics(run) if "eval/toy_said/checksum" in line
        ]
        found[name] = (line["eval/toy_said/distinct"], line["eval/toy_said/checksum"])
    assert found["one"][0] > 1
    assert found["rows"] == found["all"] == found["one"]
