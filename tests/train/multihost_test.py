"""Two processes of four simulated devices: the losses of one device, and a checkpoint that one process continues."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from cotdistill_jax import checkpoints
from cotdistill_jax.train import metrics_file

ROOT = pathlib.Path(__file__).parents[2]
FILES = (
    "gin/defaults.gin",
    "gin/schedules/constant.gin",
    "gin/models/tiny.gin",
    "gin/runs/finetune.gin",
)
MACROS = {
    "MIXTURE_OR_TASK_NAME": "'toy_a'", "TASK_FEATURE_LENGTHS": "{'inputs': 96, 'targets': 32}",
    "EMB_DIM": 16, "NUM_HEADS": 2, "HEAD_DIM": 8, "MLP_DIM": 32, "NUM_LAYERS": 1, "BATCH_SIZE": 8, "LOG_PERIOD": 1,
    "SAVE_PERIOD": 4, "WARMUP_STEPS": 2, "TRAIN_STEPS": 4, "COMPILATION_CACHE_DIR": None,
}  # fmt: skip


def _start(folder, run, devices, flags=(), **macros):
    macros = {**MACROS, "MODEL_DIR": f"'{run}'", **macros}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "cotdistill_jax.train", "--module_import=toy_tasks"),
            *(f"--gin_file={file}" for file in FILES),
            *(f"--gin.{name}={value}" for name, value in macros.items()),
            *flags,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{folder}",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _start_two(folder, run, **macros):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = (f"--coordinator_address=localhost:{port}", "--process_count=2")
    return [
        _start(folder, run, 4, (*flags, f"--process_index={index}"), **macros) for index in (0, 1)
    ]


def _finish(*processes):
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
    return outputs


def _losses(run):
    return [line["loss"] for line in metrics_file.read_metrics(run)]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_device_and_one_process_continues(tmp_path, toy_tasks):
    one, two = tmp_path / "one", tmp_path / "two"
    _finish(*_start_two(toy_tasks, two, MESH_SHAPE="(2, 2, 2)"))
    _finish(_start(toy_tasks, one, 1, TRAIN_STEPS=6))
    assert [line["step"] for line in metrics_file.read_metrics(two)] == [1, 2, 3, 4]
    # Sums over devices run in another order: float32 rounding, a few steps of it.
    assert _losses(two) == pytest.approx(_losses(one)[:4], rel=2e-5)
    assert checkpoints.list_steps(two) == [4]
    manifest = json.loads((two / "manifest.json").read_text())
    assert manifest["topology"]["num_hosts"] == 2
    assert manifest["topology"]["num_devices"] == 8
    (output,) = _finish(_start(toy_tasks, two, 1, ("--allow_config_changes",), TRAIN_STEPS=6))
    assert "the batches are the same, in the same order" in output
    assert _losses(two) == pytest.approx(_losses(one), rel=2e-5)
