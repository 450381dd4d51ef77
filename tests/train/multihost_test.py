"""Two processes of four simulated devices: the losses of one device, a checkpoint that one process continues, SIGTERM."""

import json
import os
import signal
import socket
import time

import pytest

from cotdistill_jax import checkpoints
from cotdistill_jax.train import metrics_file

pytestmark = pytest.mark.multihost

MACROS = {
    "MIXTURE_OR_TASK_NAME": "'toy_a'", "BATCH_SIZE": 8, "LOG_PERIOD": 1, "SAVE_PERIOD": 4, "WARMUP_STEPS": 2,
    "TRAIN_STEPS": 4, "COMPILATION_CACHE_DIR": None,
}  # fmt: skip


def _start(runner, run, devices, flags=(), **macros):
    environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return runner.start_toy(run, flags, environment, schedule="constant", **{**MACROS, **macros})


def _start_two(runner, run, **macros):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = (f"--coordinator_address=localhost:{port}", "--process_count=2")
    return [
        _start(runner, run, 4, (*flags, f"--process_index={index}"), **macros) for index in (0, 1)
    ]


def _losses(run):
    return [line["loss"] for line in metrics_file.read_metrics(run)]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_device_and_one_process_continues(tmp_path, runner):
    one, two = tmp_path / "one", tmp_path / "two"
    pids = _start_two(runner, two, MESH_SHAPE="(2, 2, 2)")
    for pid in pids:
        runner.finish(pid, two)
    runner.finish(_start(runner, one, 1, TRAIN_STEPS=6), one)
    assert [line["step"] for line in metrics_file.read_metrics(two)] == [1, 2, 3, 4]
    # Sums over devices run in another order: float32 rounding, a few steps of it.
    assert _losses(two) == pytest.approx(_losses(one)[:4], rel=2e-5)
    assert checkpoints.list_steps(two) == [4]
    manifest = json.loads((two / "manifest.json").read_text())
    assert manifest["topology"]["num_hosts"] == 2
    assert manifest["topology"]["num_devices"] == 8
    continued = _start(runner, two, 1, ("--allow_config_changes",), TRAIN_STEPS=6)
    said = runner.finish(continued, two)
    assert "'num_hosts': 2" in said
    assert "the batches are the same, in the same order" in said
    assert _losses(two) == pytest.approx(_losses(one), rel=2e-5)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(tmp_path, runner):
    run = tmp_path / "run"
    pids = _start_two(runner, run, MESH_SHAPE="(8, 1, 1)", TRAIN_STEPS=100_000, SAVE_PERIOD=50_000)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not metrics_file.read_metrics(run):
        time.sleep(0.05)
    os.kill(pids[1], signal.SIGTERM)
    for pid in pids:
        said = runner.finish(pid, run)
    (stopped,) = checkpoints.list_steps(run)
    assert f"stopped by SIGTERM after step {stopped} of 100000" in said
    assert metrics_file.read_metrics(run)[-1]["step"] == stopped
