"""The benchmark of the train step prints times, ratios and the share of the matrix-product rate."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_prints_time_and_share_of_the_matrix_rate() -> None:
    sizes = {"vocab": 64, "layers": 1, "batch_size": 1, "inputs": 8, "targets": 8}
    options = {**sizes, "repeats": 1, "square": 64, "num_loss_chunks": 2, "only": "ours"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/benchmark_train_step.py")]
        + [f"--{name}={value}" for name, value in options.items()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=200,
    )
    devices, *lines = done.stdout.splitlines()
    assert devices == "devices: 1 x CPU"
    assert lines[0].startswith("batch 1, inputs 8, targets 8, K 5, V 64, 1 + 1 layers, 2 loss")
    assert re.fullmatch(
        r"  ours: +[\d.]+ s, +[\d,]+ tokens/s, ours is 1.00 times as fast, at the matrix product's rate [\d.]+ times",
        lines[1],
    )
    assert re.fullmatch(r"ours: \d+ GFLOP, \d+% of the \d+ GFLOP/s of a 64-cube product", lines[2])
