"""The benchmark of memory prints a row for every stage and number of processes."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.multihost
def test_prints_every_stage_of_two_processes(tmp_path, data_dir):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts/benchmark_memory.py"),
            f"--vocabulary={data_dir / 't5/spiece.model'}",
            "--model=none",
            f"--folder={tmp_path}",
            "--processes=2",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = re.findall(r"\| (\w+) \| (\w+) \| (\d) \| +(-?\d+) \| (\d+) \|", done.stdout)
    assert [(stage, layout) for stage, layout, *_ in rows] == [
        ("conversion", "huggingface"),
        ("start", "huggingface"),
        ("start", "ours"),
        ("evaluation", "ours"),
        ("inference", "ours"),
    ]
    shares = {(stage, layout): int(share) for stage, layout, _, _, share in rows}
    assert shares["start", "ours"] == shares["start", "huggingface"] == 25
    assert shares["inference", "ours"] == 8
    assert not list(tmp_path.iterdir())
