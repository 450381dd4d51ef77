"""SkyPilot's files: their shell text runs here, in a home of its own; SkyPilot itself is not asked (it read them in version 0.14.1)."""

import os
import pathlib
import subprocess

import pytest
import yaml

FOLDER = pathlib.Path(__file__).parents[3] / "scripts" / "launch"
TRAINER = "import sys; print('trained with', *sys.argv[1:])\n"


@pytest.mark.parametrize("name", ["tpu", "gpu"])
def test_setup_and_run_are_what_a_machine_does(name, tmp_path, repository, modules):
    (modules / "t5x").mkdir(exist_ok=True)
    (modules / "t5x" / "train.py").write_text(TRAINER)
    task = yaml.safe_load((FOLDER / f"sky_{name}.yaml").read_text())
    assert task["resources"]["use_spot"]
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [os.EX_TEMPFAIL]
    git = ["git", "-C", repository]
    commit, origin = (
        subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
        for words in (["rev-parse", "HEAD"], ["remote", "get-url", "origin"])
    )
    given = {
        "REPOSITORY": origin, "COMMIT": commit, "MODULE": "t5x.train", "MULTIHOST": "--multiprocess_gpu",
        "RUN": f"--gin_file=a.gin --gin.MODEL_DIR='\"{tmp_path}/run\"'",
    }  # fmt: skip
    assert set(task["envs"]) <= set(given)
    sky = {"SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "10.0.0.1", "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_TASK_ID": "task"}  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path), **given, **sky}
    for part in ("setup", "run"):
        done = subprocess.run(
            ["bash", "-c", task[part]], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    several = (
        "--multiprocess_gpu"
        if name == "tpu"
        else "--coordinator_address=10.0.0.1:8476 --process_count=1 --process_index=0"
    )
    assert (
        f'trained with --gin_file=a.gin --gin.MODEL_DIR="{tmp_path}/run" {several}\n' in done.stdout
    )
    assert "0 faults" in done.stdout
