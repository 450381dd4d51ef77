"""The scripts about plans print what a user looks for: compile times, a plan beside a real run, meshes that fit or do not."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        check=False,
    )


SMALL = ("--num_layers=2", "--emb_dim=16", "--batch_size=2", "--inputs=16", "--targets=8")


@pytest.mark.slow
def test_compile_times_are_printed_side_by_side():
    done = run("benchmark_compile.py", *SMALL, "--mlp_dim=32", "--num_heads=2")
    assert done.returncode == 0, done.stderr[-2000:]
    devices, *lines = done.stdout.splitlines()
    assert devices == "devices: 1 x CPU"
    assert re.match(r" scanned: trace [\d.]+ s, compile [\d.]+ s", lines[1])
    assert re.match(r"unrolled: trace [\d.]+ s, compile [\d.]+ s", lines[2])
    assert re.match(r"scanned / unrolled: compile [\d.]+", lines[3])


@pytest.mark.slow
def test_a_plan_is_near_the_real_run():
    done = run(
        "check_plan.py", "--num_layers=3", "--emb_dim=128", "--num_steps=2", "--matrix_side=256"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {
        name: [float(number) for number in numbers.split()]
        for name, numbers in re.findall(r"^([a-z][A-Za-z, ]+?) {3,}([\d. ]+)$", done.stdout, re.M)
    }
    plan, whole, real = rows["parameters and optimizer, MiB"]
    assert plan == whole == real
    plan, whole, real = rows["all memory, MiB"]
    assert plan == pytest.approx(whole, rel=0.1)
    # The process also grows by what the libraries allocate for themselves.
    assert 0.7 * whole < real < 1.5 * whole + 100
    flops = (
        rows["GFLOP a step"]
        if "GFLOP a step" in rows
        else re.findall(r"GFLOP a step +([\d.]+) +([\d.]+)", done.stdout)[0]
    )
    assert float(flops[0]) == pytest.approx(float(flops[1]), rel=0.02)


@pytest.mark.slow
def test_a_mesh_that_does_not_divide_is_refused_and_one_that_does_is_planned():
    leaf = ("--gin_file=gin/experiments/arith_quickstart.gin",)
    done = run("plan_run.py", *leaf, "--mesh=fsdp=3")
    assert done.returncode != 0
    assert "emb_dim = 128 over fsdp = 3; batch_size / num_microbatches = 4" in done.stderr
    done = run("plan_run.py", *leaf, "--mesh=fsdp=2,model=2", "--gin.SCAN_LAYERS=True")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "memory of the whole program" in done.stdout
    assert re.search(
        r"mesh fsdp=2,model=2: GiB per device: parameters 0\.00, optimizer", done.stdout
    )
    assert re.search(r"TPU v5e +fits", done.stdout)
