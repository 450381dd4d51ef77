"""The whole check on this machine's CPUs, where TensorFlow and SeqIO cannot be imported."""

import os
import pathlib
import subprocess
import sys
import types

import pytest

from cotdistill_jax.train import chips
from scripts import check_hardware

ROOT = pathlib.Path(__file__).parents[2]
BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "clu"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""
SMALL = {
    "VOCAB_SIZE": 128, "EMB_DIM": 32, "NUM_HEADS": 2, "HEAD_DIM": 16, "MLP_DIM": 64, "NUM_LAYERS": 1, "EVAL_BATCH_SIZE": 2,
    "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 8, "teacher_ids": 8, "teacher_probs": 8},
    "EVAL_FEATURE_LENGTHS": {"inputs": 16, "targets": 8},
}  # fmt: skip


def run(tmp_path, *arguments):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    bindings = [f"--gin.{name}={value}" for name, value in SMALL.items()]
    return subprocess.run(
        [sys.executable, "scripts/check_hardware.py", *bindings, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "JAX_PLATFORMS": "cpu",
            "EPATH_USE_TF": "false",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
def test_every_part_is_in_the_table(tmp_path, layers):
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    done = run(
        tmp_path,
        "--steps=2",
        "--new_tokens=4",
        f"--checkpoint_dir={kept}",
        f"--gin.SCAN_LAYERS={layers == 'scanned'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr[-1500:]
    rows = dict(line.strip("| ").split(" | ", 1) for line in done.stdout.splitlines() if line[0] == "|")  # fmt: skip
    assert rows["devices"].startswith("1 x CPU")
    assert float(rows["a step of 2 x (16 + 8) tokens, median of 2"].split()[0].replace(",", "")) > 0
    first, last = map(float, rows["loss, first and last"].split(", "))
    assert last < first
    assert rows["planned memory of a device"] == "0.00 GiB"
    assert int(rows["new tokens a second, all devices"].replace(",", "")) > 0
    assert rows["equal to the bit"] == "yes"
    assert list(kept.iterdir()) == [], "the tried checkpoint is removed"


def test_a_part_that_fails_says_so_and_the_next_ones_go_on(tmp_path):
    done = run(
        tmp_path,
        "--skip=training,plan",
        "--new_tokens=2",
        "--gin.EVAL_FEATURE_LENGTHS={}",
    )
    assert done.returncode == 1
    assert "| decoding FAILED | KeyError: 'inputs' |" in done.stdout
    assert "| checkpoint FAILED | ValueError: no state: training failed or was left out |" in done.stdout  # fmt: skip
    assert "check_hardware: failed: decoding, checkpoint" in done.stderr


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA H200", "H200"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v4", "TPU v4"),
    ],
)
def test_peaks_are_those_of_the_device(kind, name):
    chip = check_hardware.published(types.SimpleNamespace(device_kind=kind))
    assert isinstance(chip, chips.Chip) and chip.name == name


def test_a_device_without_published_numbers_has_none():
    assert check_hardware.published(types.SimpleNamespace(device_kind="cpu")) is None
