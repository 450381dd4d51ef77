"""The job script and its submission on a cluster that is not there: `sbatch` runs the script at once, `srun` its processes here."""

import os
import re
import signal
import subprocess
import time

import pytest

# Real processes that wait for one another: minutes on two cores that do something else, too.
pytestmark = pytest.mark.multihost

JOB = ("--name=run", "--nodes=2", "--gpus_per_node=0", "--t5x", "--first_wait_seconds=0.1")
# `python -m t5x.train`: a step every 20 ms, a checkpoint at every tenth and, at SIGTERM, after the step under way.
TRAINER = """\
import os, pathlib, re, signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
flag = lambda name: next(re.sub("[\\"']", "", a.partition("=")[2]) for a in sys.argv if a.startswith("--gin." + name + "="))
run, total = pathlib.Path(flag("MODEL_DIR")), int(flag("TRAIN_STEPS"))
worker = os.environ["SLURM_PROCID"]
start = max([int(p.name[11:]) for p in run.glob("checkpoint_*")], default=0)
os.write(1, f"process {worker} continues after step {start} {os.environ.get('GREETING')}\\n".encode())
for step in range(start + 1, total + 1):
    time.sleep(0.02)
    if (run / ("crash_" + worker)).exists():
        (run / ("crash_" + worker)).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if step % 10 == 0 or told:
        (run / f"checkpoint_{step}").mkdir(exist_ok=True)
    if told:
        sys.exit(75)
"""


@pytest.fixture(autouse=True)
def trainer(modules, tmp_path, world):
    (modules / "t5x").mkdir(exist_ok=True)
    (modules / "t5x" / "train.py").write_text(TRAINER)
    (tmp_path / "run").mkdir()
    world.change(srun_wait=0.5)


def _submit(world, tmp_path, steps, *flags):
    flags = (*JOB, f"--jobs_dir={tmp_path}/jobs", *flags)
    return world.call(
        "slurm.py",
        "submit",
        *flags,
        "--",
        f"--gin.MODEL_DIR='{tmp_path}/run'",
        f"--gin.TRAIN_STEPS={steps}",
    )


def _log(tmp_path):
    path = tmp_path / "jobs" / "run.log"
    return path.read_text() if path.exists() else ""


def _wait(condition, tmp_path, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, _log(tmp_path)
        time.sleep(0.02)


def test_a_job_is_submitted_once_survives_a_dead_process_and_ends(world, tmp_path):
    done = _submit(world, tmp_path, 200, "--env=GREETING=hello there")
    assert done.code == 0, done.said
    assert "submitted as job 4711" in done.out
    assert "nothing was submitted" in _submit(world, tmp_path, 200).out
    assert "4711 RUNNING" in world.call("slurm.py", "status", *JOB).out
    _wait((tmp_path / "run" / "checkpoint_50").exists, tmp_path)
    (tmp_path / "run" / "crash_1").touch()
    _wait(lambda: "supervise: " in _log(tmp_path) and " done: " in _log(tmp_path), tmp_path)
    assert re.search(r"process 1 continues after step \d+ hello there", _log(tmp_path))
    assert "waiting: crash 1 of 5: exit status 137" in _log(tmp_path)
    assert (tmp_path / "run" / "checkpoint_200").exists()
    assert (
        " done: after 2 starts"
        in world.call("slurm.py", "logs", *JOB, f"--jobs_dir={tmp_path}/jobs").out
    )
    assert len(world.calls("sbatch")) == 1


@pytest.mark.parametrize(
    ("how", "state", "requeued"), [("time limit", "terminated", 1), ("stop", "stopped", None)]
)
def test_the_time_limit_saves_and_queues_again_and_a_stop_only_saves(
    world, tmp_path, how, state, requeued
):
    _submit(world, tmp_path, 100_000)
    _wait((tmp_path / "run" / "checkpoint_10").exists, tmp_path)
    if how == "stop":
        assert world.call("slurm.py", "stop", *JOB).code == 0
    else:
        os.kill(world.read()["pid"], signal.SIGTERM)  # --signal=B:TERM@...
    _wait(lambda: f" {state}: " in _log(tmp_path), tmp_path)
    _wait(lambda: world.read().get("requeued") == requeued, tmp_path)
    assert ["scancel", "--signal=TERM", "4711"] in world.calls("scancel")
    saved = max(int(path.name[11:]) for path in (tmp_path / "run").glob("checkpoint_*"))
    (tmp_path / "jobs" / "run.log").unlink()
    world.change(jobs=[], job="4712")
    _submit(world, tmp_path, saved + 5)
    _wait(lambda: " done: " in _log(tmp_path), tmp_path)
    assert f" continues after step {saved} " in _log(tmp_path)


def test_one_process_a_node_or_a_gpu_is_what_the_script_says(world, tmp_path):
    flags = (
        "--name=run",
        "--nodes=4",
        "--gpus_per_node=8",
        "--partition=gpu",
        "--time=1:00:00",
        "--sbatch=--constraint=h100",
        "--dry_run",
    )
    run = ("--", "--gin_file=gin/runs/finetune.gin", "--gin.MODEL_DIR='/shared/run'")
    node = world.call("slurm.py", "submit", *flags, *run)
    assert node.code == 0, node.error
    assert world.calls() == []
    for line in (
        "--nodes=4",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--signal=B:TERM@300",
        "--requeue",
        "--partition=gpu",
        "--constraint=h100",
    ):
        assert f"#SBATCH {line}\n" in node.out
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7\n" in node.out
    assert (
        "python -m cotdistill_jax.train --gin_file=gin/runs/finetune.gin '--gin.MODEL_DIR='\"'\"'/shared/run'\"'\"'' --multihost"
        in node.out
    )
    gpu = world.call("slurm.py", "submit", *flags, "--processes=gpu", "--t5x", *run)
    assert "#SBATCH --ntasks-per-node=8\n" in gpu.out
    assert "JAX_LOCAL_DEVICE_IDS" not in gpu.out
    assert "--gpu-bind=none" in gpu.out
    assert "--multiprocess_gpu" in gpu.out
    script = node.out[node.out.index("#!/bin/bash") : node.out.index("$ sbatch")]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


FAULTS = {
    "partition": ({}, ("--partition=gpus",), "--partition=gpus: there is none; close: gpu. What to do: one of debug, gpu"),
    "no SLURM": ({"errors": {"^sinfo": "sinfo: error: Unable to contact slurm controller"}}, (), "Unable to contact slurm controller"),
    "refused": ({"errors": {"^sbatch": "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"}}, (),
                "launch: sbatch: sbatch: error: Batch job submission failed: Invalid account"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_line_before_the_queue(world, tmp_path, fault):
    changes, flags, said = FAULTS[fault]
    world.change(**changes)
    done = _submit(world, tmp_path, 10, *flags)
    assert done.code == 1
    assert said in done.error
    assert "Traceback" not in done.said
    assert world.read()["jobs"] == []


def test_a_coordinator_on_the_loopback_address_and_a_folder_that_cannot_be_written(world, tmp_path):
    (tmp_path / "file").touch()
    run = ("--", f"--gin.MODEL_DIR='{tmp_path}/file/run'", "--coordinator_address=localhost:1")
    done = world.call("slurm.py", "doctor", *JOB, *run)
    assert done.code == 1
    assert "coordinator: --coordinator_address=localhost:1" in done.error
    assert "can't be written from" in done.error
    assert "slurm: 2 faults" in done.out
