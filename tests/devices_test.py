"""The line of devices, and the loud one about an idle accelerator, in processes with a stand-in nvidia-smi."""

import os
import subprocess
import sys

import pytest

ANNOUNCE = "from cotdistill_jax import devices; devices.announce()"


@pytest.fixture
def announce(tmp_path):
    """Returns a function that runs a command on a machine with one GPU that JAX has no plugin for."""
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-7c1f)"\n')
    program.chmod(0o755)

    def run(**variables):
        left_out = {"JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "COTDISTILL_ACCELERATOR", "XLA_FLAGS"}
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        kept["PATH"] = f"{tmp_path}{os.pathsep}{kept['PATH']}"
        return subprocess.run(
            [sys.executable, "-c", ANNOUNCE],
            env={**kept, **variables},
            capture_output=True,
            text=True,
            check=True,
        )

    return run


def test_an_idle_gpu_is_said_loudly_with_what_to_install(announce):
    done = announce()
    assert done.stdout == "devices: 1 x CPU\n"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("WARNING: ")]
    assert line.startswith("WARNING: 1 x NVIDIA H100 80GB HBM3 in this machine is NOT USED: JAX ")
    assert "source scripts/environment.sh cuda" in line and "jax[cuda12]==" in line


@pytest.mark.parametrize(
    "chosen",
    [
        {"JAX_PLATFORMS": "cpu"},
        {"COTDISTILL_ACCELERATOR": "none"},
        {"CUDA_VISIBLE_DEVICES": ""},
    ],
)
def test_who_chose_the_cpu_is_left_in_peace(announce, chosen):
    done = announce(**chosen, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert done.stdout == "devices: 4 x CPU\n"
    assert "NOT USED" not in done.stderr
