"""What is found of a machine's accelerators, with a stand-in for nvidia-smi and for the device files."""

import os
import subprocess
import sys

import pytest

from cotdistill_jax import accelerators

LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-7c1f)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-8d2a)
GPU 2: Tesla T4 (UUID: GPU-9)
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Returns a function that puts an nvidia-smi with this output and exit status on the PATH, before all else."""

    def put(printed: str, status: int = 0) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "printed").write_text(printed)
        program = folder / "nvidia-smi"
        program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat {folder}/printed\nexit {status}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return put


def make_files(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    return root


def add_pci(root, device):
    folder = root / "sys/bus/pci/devices/0000:00:04.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text("0x1ae0\n")
    (folder / "device").write_text(f"{device}\n")


def test_gpus_are_counted_by_model(nvidia_smi, tmp_path):
    nvidia_smi(LISTED)
    found = accelerators.find(tmp_path)
    assert found == accelerators.Accelerator(
        "cuda", "gpu", "2 x NVIDIA H100 80GB HBM3, 1 x Tesla T4"
    )


def test_an_nvidia_smi_without_a_driver_is_no_gpu(nvidia_smi, tmp_path):
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver\n", 9)
    assert accelerators.find(tmp_path) is None


def test_a_gpu_is_known_by_its_device_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    root = make_files(tmp_path, "dev/nvidia0", "dev/nvidiactl")
    assert accelerators.find(root).extra == "cuda"
    assert "nvidia0" in accelerators.find(root).description


@pytest.mark.parametrize("file", ["dev/accel0", "dev/vfio/0"])
def test_a_tpu_is_known_by_its_device_files(tmp_path, monkeypatch, file):
    monkeypatch.setenv("PATH", "")
    add_pci(tmp_path, "0x0063")
    assert accelerators.find(make_files(tmp_path, file)).extra == "tpu"


def test_googles_network_card_is_no_tpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    add_pci(tmp_path, "0x0042")
    assert accelerators.find(make_files(tmp_path, "dev/vfio/0", "dev/accel/accel0")) is None


def run_script(**variables):
    return subprocess.run(
        [sys.executable, "-I", "-S", accelerators.__file__],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_as_a_script_it_prints_the_extra_and_says_why(nvidia_smi):
    nvidia_smi(LISTED)
    done = run_script()
    assert done.stdout == "cuda\n"
    assert done.stderr == "environment: found 2 x NVIDIA H100 80GB HBM3, 1 x Tesla T4\n"
    done = run_script(COTDISTILL_ACCELERATOR="none")
    assert done.stdout == "\n" and done.stderr.endswith("COTDISTILL_ACCELERATOR=none\n")
    assert run_script(COTDISTILL_ACCELERATOR="tpu").stdout == "tpu\n"


def test_another_word_is_refused_with_the_ones_there_are():
    done = run_script(COTDISTILL_ACCELERATOR="gpu")
    assert done.returncode == 1
    assert (
        done.stderr
        == "environment: COTDISTILL_ACCELERATOR='gpu'; expected one of cuda, tpu, none\n"
    )
