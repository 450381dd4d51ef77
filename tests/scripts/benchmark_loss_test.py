"""The benchmark of the loss prints memory and time of every variant."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_prints_every_variant() -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts/benchmark_loss.py"),
        "--vocab=2000",
        "--width=16",
        "--length=32",
        "--num_chunks=4",
        "--repeats=1",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=120,
    )
    devices, *lines = done.stdout.splitlines()
    assert devices == "devices: 1 x CPU"
    assert re.match(r" +whole: +\d+ MiB \(100%\), wall \d", lines[2])
    assert re.match(r" +4 chunks: +\d+ MiB \(\d+%\), wall \d", lines[3])
