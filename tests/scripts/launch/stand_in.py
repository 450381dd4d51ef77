#!/usr/bin/env -S python3 -IS
"""Stands in for gcloud, sbatch, srun, squeue, scancel, scontrol, sinfo: records its calls, and misbehaves as its world says.

The world is a folder: `world.json` (what there is and what goes wrong), `calls.jsonl` (what was called), `worker_N` (the home of each
machine). What a launcher runs on a machine is run here, in that home, for real.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import subprocess
import sys
import time

WORLD = pathlib.Path(os.environ["STAND_IN_WORLD"])
NAME = pathlib.Path(sys.argv[0]).name
ARGUMENTS = sys.argv[1:]
WORDS = [text for text in ARGUMENTS if not text.startswith("-") and text != "alpha"]


@contextlib.contextmanager
def world():
    with (WORLD / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = json.loads((WORLD / "world.json").read_text())
        try:
            yield found
        finally:
            partial = WORLD / "world.part"
            partial.write_text(json.dumps(found))
            partial.replace(WORLD / "world.json")


def flag(name, default=None):
    return next(
        (text.partition("=")[2] for text in ARGUMENTS if text.startswith(f"--{name}=")), default
    )


def fail(text, code=1):
    print(text, file=sys.stderr)
    sys.exit(code)


def on_worker(number, command, environment):
    home = WORLD / f"worker_{number}"
    home.mkdir(exist_ok=True)
    sys.exit(
        subprocess.run(
            ["bash", "-c", command], env={**os.environ, "HOME": str(home), **environment}, cwd=home
        ).returncode
    )


def cluster(number, count, job):
    """What lets JAX find the other processes: on Cloud TPU the metadata server does."""
    return {
        "SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count), "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number), "SLURM_STEP_NUM_NODES": str(count), "STAND_IN_WORKER": str(number),
    }  # fmt: skip


def gcloud():
    said = " ".join(WORDS)
    with world() as found:
        for pattern, error in found["errors"].items():
            if re.search(pattern, said):
                if isinstance(error, list):
                    error, *rest = error
                    found["errors"][pattern] = rest
                    if not rest:
                        del found["errors"][pattern]
                if error:  # null: this time it answers
                    fail(error)
        zone, name = flag("zone"), WORDS[4] if len(WORDS) > 4 else None
        if said.startswith("auth list"):
            print(found["account"])
        elif said.startswith("storage buckets describe"):
            if WORDS[3] not in found["buckets"]:
                fail(f"ERROR: (gcloud.storage.buckets.describe) {WORDS[3]} not found: 404.")
            print(found["buckets"][WORDS[3]])
        elif "locations list" in said or said == "compute zones list":
            print("\n".join(found["zones"]))
        elif "accelerator-types list" in said:
            if zone not in found["zones"]:
                fail(
                    f"ERROR: (gcloud.compute.tpus.accelerator-types.list) NOT_FOUND: Location {zone} is not found or access is unauthorized."
                )
            print("\n".join(found["zones"][zone]))
        elif "machine-types list" in said:
            print("\n".join(found["zones"].get(flag("zones"), [])))
        elif "queued-resources list" in said:
            print(
                json.dumps(
                    [
                        {
                            "name": f"projects/p/locations/{zone}/queuedResources/{name}",
                            "state": {"state": state},
                        }
                        for name, (state, *_) in found["requests"].items()
                    ]
                )
            )
        elif "queued-resources create" in said:
            if name in found["requests"]:
                fail(
                    "ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS: Resource already exists"
                )
            found["requests"][name] = list(found["course"])
        elif "queued-resources describe" in said:
            if name not in found["requests"]:
                fail(
                    "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource was not found"
                )
            states = found["requests"][name]
            state = states.pop(0) if len(states) > 1 else states[0]
            failed = (
                {"failedData": {"error": {"message": found["failure"]}}}
                if state == "FAILED"
                else {}
            )
            print(json.dumps({"state": {"state": state, **failed}}))
        elif "queued-resources delete" in said:
            del found["requests"][name]
        elif "tpu-vm describe" in said:
            print(json.dumps({"state": found["node"]}))
        elif any(
            word in ("instances", "instance-groups", "instance-templates", "resource-policies")
            for word in WORDS
        ):
            compute_engine(found)
        elif WORDS[-2:-1] == ["ssh"] or WORDS[1:2] == ["ssh"]:
            number = flag("worker") or found["instances"].index(WORDS[2])
            if int(number) in found["dead_workers"]:
                fail(
                    "ssh: connect to host 10.0.0.2 port 22: Connection refused\nERROR: (gcloud) Command execution on worker 1 failed with exit status 255 or return code [255]",
                    255,
                )
            job, hosts = found["job"], found["hosts"]
        else:
            fail(f"stand-in: no such command: gcloud {said}", 3)
    if "ssh" in WORDS:
        on_worker(int(number), flag("command"), cluster(int(number), hosts, job))


def compute_engine(found):
    """Groups, templates, policies and instances by kind and name, each a list of the states that it goes through."""
    kind = next(
        word for word in WORDS if word.split("-")[0] in ("instances", "instance", "resource")
    )
    action = next(
        word
        for word in WORDS
        if word in ("create", "describe", "delete", "list-instances", "resize", "start")
    )
    key = f"{kind} {WORDS[-1]}"
    if action == "create":
        found["requests"][key] = list(found["course"])
        return
    if key not in found["requests"]:
        fail(
            f"ERROR: (gcloud.compute) Could not fetch resource:\n - The resource '{key}' was not found"
        )
    states = found["requests"][key]
    if action == "delete":
        del found["requests"][key]
    elif action in ("resize", "start"):
        found["requests"][key] = list(found["course"])
    elif action == "describe":
        state = states.pop(0) if len(states) > 1 and kind == "instances" else states[0]
        print(json.dumps({"status": state}))
    else:
        state = states.pop(0) if len(states) > 1 else states[0]
        print(
            json.dumps(
                [
                    {"instance": f"zones/z/instances/{name}", "instanceStatus": state}
                    for name in found["instances"]
                ]
            )
        )


def slurm():
    """A cluster of one queue: `sbatch` runs the script at once, `srun` its processes on this machine."""
    with world() as found:
        for pattern, error in found["errors"].items():
            if re.search(pattern, " ".join([NAME, *ARGUMENTS])):
                fail(error)
    if NAME == "sinfo":
        print("\n".join(found["partitions"]))
    elif NAME == "squeue":
        print("\n".join(found["jobs"]))
    elif NAME == "sbatch":
        script = pathlib.Path(WORDS[-1]).read_text()
        log = re.search(r"--output=(.*)", script)[1]
        environment = {**os.environ, "SLURM_JOB_ID": found["job"]}
        with open(log, "ab") as file:
            process = subprocess.Popen(
                ["bash", WORDS[-1]],
                env=environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        with world() as found:
            found["jobs"], found["pid"] = [f"{found['job']} RUNNING None"], process.pid
        print(found["job"])
    elif NAME == "scancel" and "--batch" in ARGUMENTS:
        os.kill(found["pid"], 2 if "--signal=INT" in ARGUMENTS else 15)
    elif NAME == "scancel":
        for pid in found["tasks"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
    elif NAME == "scontrol":
        with world() as found:
            found["requeued"] = found.get("requeued", 0) + 1
    elif NAME == "srun":
        srun(found)


def srun(found):
    count = int(flag("ntasks", found["hosts"]))
    command = ARGUMENTS[ARGUMENTS.index("python") :]
    tasks = [
        subprocess.Popen(command, env={**os.environ, **cluster(number, count, found["job"])})
        for number in range(count)
    ]
    with world() as found:
        found["tasks"] = [task.pid for task in tasks]
    deadline = None
    while any(task.poll() is None for task in tasks):
        if deadline is None and any(task.poll() is not None for task in tasks):
            deadline = time.monotonic() + found["srun_wait"]  # srun --wait
        if deadline and time.monotonic() > deadline:
            for task in tasks:
                task.kill()
        time.sleep(0.05)
    sys.exit(max(code if code >= 0 else 128 - code for code in (task.returncode for task in tasks)))


with (WORLD / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([NAME, *ARGUMENTS]) + "\n")
gcloud() if NAME == "gcloud" else slurm()
