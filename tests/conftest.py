"""Fixtures shared by all tests."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import hypothesis
import pytest

from cotdistill_jax.files import buckets
from tests import gcs_server

ROOT = pathlib.Path(__file__).parents[1]

# The same examples in every run, and no verdict that depends on how busy the machine is.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")


# Read once at the start: tests change the variable.
_DATA_DIR = os.environ.get("COTDISTILL_DATA_DIR")


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """Folder with the real benchmark files, laid out as `scripts/download_benchmarks.py` writes it."""
    if not _DATA_DIR:
        pytest.skip("COTDISTILL_DATA_DIR is not set: real benchmark files are not available")
    return pathlib.Path(_DATA_DIR)


_FORKING = """
import faulthandler, json, os, runpy, signal, sys
faulthandler.register(signal.SIGUSR1, all_threads=True)
import t5x.train, t5x.eval, t5x.infer, t5x.config_utils, fiddle, gin
import cotdistill_jax.t5x_model, cotdistill_jax.train.loop, cotdistill_jax.inference
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(request["environment"])
        sys.argv = [request["module"], *request["arguments"]]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        sys.exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Commands:
    """`python -m MODULE` in processes forked from one that has imported T5X and the project, which saves seconds each."""

    def __init__(self, folder: pathlib.Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORKING],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, module: str, arguments: Sequence[str], **environment: str) -> int:
        """Returns the process id; call `wait` before the next start."""
        self._count += 1
        self._output = self.folder / f"{self._count:03}.log"
        request = {
            "module": module,
            "arguments": list(arguments),
            "environment": environment,
            "output": str(self._output),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> tuple[int, str]:
        """Returns the exit status of the started process, negative for a signal, and all that it printed."""
        status = int(self._process.stdout.readline())
        return status, self._output.read_text(errors="replace")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


@pytest.fixture(scope="session")
def t5x_commands(tmp_path_factory):
    """Runs commands of T5X and of the project; a folder `modules` is on their path, the `arith` corpus is built."""
    if importlib.util.find_spec("t5x") is None:
        pytest.skip("t5x is not installed (bash scripts/install_t5x.sh)")
    from cotdistill_jax.corpus import arith

    folder = tmp_path_factory.mktemp("t5x_commands")
    (folder / "modules").mkdir()
    corpora = pathlib.Path(os.environ.get("COTDISTILL_TFDS_DIR", folder / "corpora"))
    if not (corpora / "arith").exists():
        arith.Arith(data_dir=corpora).download_and_prepare()
    commands = Commands(
        folder,
        {
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(folder / "modules"), os.environ.get("PYTHONPATH", "")]
            ),
            "COTDISTILL_TFDS_DIR": str(corpora),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        },
    )
    yield commands
    commands.close()


class Bucket(NamedTuple):
    """An empty bucket of `server`, at `url`."""

    server: gcs_server.GcsServer
    name: str
    url: str


@pytest.fixture(scope="session")
def bucket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gcs_server.GcsServer]:
    """A bucket server to which this process's `gs://` paths lead, and those of its children."""
    with gcs_server.GcsServer(tmp_path_factory.mktemp("server")) as server:
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        yield server
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture
def bucket(bucket_server: gcs_server.GcsServer, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of the test's own, whose client waits milliseconds between its tries."""
    quick = {"max_retries": 8, "initial_delay": "10ms", "max_delay": "100ms"}
    monkeypatch.setattr(buckets, "_RETRIES", quick)
    monkeypatch.setattr(buckets, "_FEW_RETRIES", quick)
    buckets._open.cache_clear()
    bucket_server.faults = []
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    bucket_server.make_bucket(name)
    return Bucket(bucket_server, name, f"gs://{name}")
