"""A cloud and a cluster that are not there: stand-in programs on a PATH of their own, and a repository that the machines clone."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
PROGRAMS = ("gcloud", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
# In place of an installation, which tests/packaging_test.py and the quickstart prove.
ENVIRONMENT = """\
export PATH={bin}:"$PATH" PYTHONPATH="$PWD:{modules}" JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3
"""
EMPTY = {
    "account": "somebody@example.com",
    "buckets": {"gs://bucket": "US-WEST4"},
    "zones": {"us-west4-a": ["v5litepod-1", "v5p-8", "v5p-16", "ct5p-hightpu-4t", "ct6e-standard-8t"], "us-central2-b": ["v4-8"]},
    "requests": {}, "course": ["WAITING_FOR_RESOURCES", "ACTIVE"], "node": "READY", "failure": "", "errors": {}, "dead_workers": [],
    "hosts": 2, "job": "4711", "instances": ["run-0", "run-1"], "partitions": ["gpu", "debug"], "jobs": [], "tasks": [], "srun_wait": 20,
}  # fmt: skip


@dataclasses.dataclass
class Done:
    """How a launcher ended."""

    code: int
    out: str
    error: str

    @property
    def said(self):
        return self.out + self.error


class World:
    """The folder that the stand-ins look at."""

    def __init__(self, folder, repository, modules):
        self.folder, self.repository, self.modules = folder, repository, modules
        (folder / "bin").mkdir(parents=True)
        for name in PROGRAMS:
            shutil.copy(pathlib.Path(__file__).with_name("stand_in.py"), folder / "bin" / name)
            (folder / "bin" / name).chmod(0o755)
        self.change(**EMPTY)

    def read(self):
        return json.loads((self.folder / "world.json").read_text())

    def change(self, **values):
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._change(values)

    def _change(self, values):
        path = self.folder / "world.json"
        found = {**(self.read() if path.exists() else {}), **values}
        partial = self.folder / "changed.part"
        partial.write_text(json.dumps(found))
        partial.replace(path)

    def calls(self, *words):
        """All calls that contain these words."""
        path = self.folder / "calls.jsonl"
        found = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        return [call for call in found if set(words) <= set(call)]

    @property
    def environment(self):
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {
            **os.environ,
            "PATH": path,
            "STAND_IN_WORLD": str(self.folder),
            "HOME": str(self.folder),
        }

    def start(self, script, *arguments):
        return subprocess.Popen(
            [sys.executable, self.repository / "scripts" / "launch" / script, *arguments],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.repository,
        )  # fmt: skip

    def call(self, script, *arguments, timeout=120):
        process = self.start(script, *arguments)
        out, error = process.communicate(timeout=timeout)
        return Done(process.returncode, out, error)

    def processes(self, worker):
        """What runs on a machine: processes whose environment has its number."""
        marks = {f"STAND_IN_WORLD={self.folder}".encode(), f"STAND_IN_WORKER={worker}".encode()}
        found = []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if marks <= set((process / "environ").read_bytes().split(b"\0")):
                    found.append(int(process.name))
        return found

    def kill_machine(self, worker):
        """What a preemption leaves of a machine: nothing."""
        while processes := self.processes(worker):
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder / f"worker_{worker}", ignore_errors=True)

    def preempt(self, name="run"):
        """Takes a slice away: its machines are gone, its request is suspended."""
        requests = self.read()["requests"]
        self.change(
            requests={**requests, name: ["SUSPENDED"]}, job=str(int(self.read()["job"]) + 1)
        )
        for worker in range(self.read()["hosts"]):
            self.kill_machine(worker)

    def status(self, worker, name="run"):
        path = self.folder / f"worker_{worker}" / ".cotdistill" / name / "status.json"
        return json.loads(path.read_text()) if path.exists() else {"state": "absent"}


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    return subprocess.run(
        ["git", *identity, "-C", folder, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="session")
def modules(tmp_path_factory):
    """A folder of modules that the machines can import."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="session")
def repository(tmp_path_factory, modules):
    """A checkout of the files as they are now, pushed to a bare repository beside it; only its environment is another."""
    folder = tmp_path_factory.mktemp("repository")
    checkout, bare = folder / "checkout", folder / "origin.git"
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip
    for name in listed.splitlines():
        if name.startswith("tests/") or not (ROOT / name).is_file():
            continue
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    environment = ENVIRONMENT.format(bin=pathlib.Path(sys.executable).parent, modules=modules)
    (checkout / "scripts" / "environment.sh").write_text(environment)
    (checkout / "scripts" / "install_t5x.sh").write_text("echo installed\n")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", bare], check=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", checkout], check=True)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=as it is")
    git(checkout, "remote", "add", "origin", str(bare))
    git(checkout, "push", "--quiet", "origin", "main")
    return checkout


@pytest.fixture
def world(tmp_path, repository, modules):
    return World(tmp_path / "world", repository, modules)
