"""Published weights by name, from a local server that speaks the Hub's protocol and breaks it: fetched, resumed, checked, found offline."""

import hashlib
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import urllib.parse

import jax
import pytest

from cotdistill_jax import checkpoints, corpus, network
from cotdistill_jax.checkpoints import conversion, hub, initial
from cotdistill_jax.inference import selection

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someorg/tiny-t5"


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's interface as fetching a model needs, for the files of `folder`."""

    folder: pathlib.Path
    asked: list[str]
    faults: dict[str, str]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(head=True)

    def do_GET(self):
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        address = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(address.path)
        self.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if "gated" in self.faults:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif not path.removeprefix("/api/models").startswith(f"/{REPOSITORY}"):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/"):
            listing = f"/api/models/{REPOSITORY}/tree/"
            content = self._tree() if path.startswith(listing) else self._info()
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
        else:
            self._file(path.rpartition("/")[2], head)

    def _files(self) -> list[tuple[str, int, str]]:
        paths = sorted(path for path in self.folder.iterdir() if path.is_file())
        return [
            (path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in paths
        ]

    def _tree(self) -> list[dict[str, object]]:
        return [
            {
                "type": "file",
                "path": name,
                "size": size,
                "oid": sha[:40],
                **self._lfs(size, sha, "oid"),
            }
            for name, size, sha in self._files()
        ]

    def _info(self) -> dict[str, object]:
        siblings = [
            {"rfilename": name, "size": size, "blobId": sha[:40], **self._lfs(size, sha, "sha256")}
            for name, size, sha in self._files()
        ]
        return {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "private": False}

    def _lfs(self, size: int, sha: str, key: str) -> dict[str, object]:
        return {"lfs": {key: sha, "size": size, "pointerSize": 100}}

    def _file(self, name: str, head: bool) -> None:
        path = self.folder / name
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        sha = hashlib.sha256(content).hexdigest()
        if self.faults.get("other content") == name:
            content = bytes(len(content))
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{sha}"',
            "X-Linked-ETag": f'"{sha}"',
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        cut = self.faults.get("cut") == name and not head
        if cut:
            del self.faults["cut"]
        self._send(206 if start else 200, body, headers, head, cut)

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str],
        head: bool = False,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and not head:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_):
        """Keeps requests out of the tests' output."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small FlanT5 in Hugging Face's layout, with a second copy of its weights that is not needed."""
    path = tmp_path_factory.mktemp("model")
    params = checkpoints.init_variables(CONFIG, jax.random.key(0))["params"]
    weights = conversion.Weights("ours", CONFIG, params, corpus.arith_vocabulary(), 0, 0)
    conversion.save(weights, str(path), conversion.HUGGING_FACE)
    (path / "pytorch_model.bin").write_bytes(b"not needed")
    (path / "flax_model.msgpack").write_bytes(b"not needed")
    return path


@pytest.fixture
def server(folder):
    """The Hub; `asked` holds its requests, `faults` what it does wrong."""
    handler = type("Hub", (_Hub,), {"folder": folder, "asked": [], "faults": {}})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


@pytest.fixture
def command(server, tmp_path):
    """Runs a command in `tmp_path`, whose Hub is the server and whose cache is new."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
                "PYTHONPATH": str(ROOT),
                "HF_ENDPOINT": server[1],
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_XET": "1",
                "HOME": str(tmp_path),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


def fetch(command, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "scripts" / "fetch_weights.py")
    return command(script, f"--name={REPOSITORY}", *arguments, **environment)


def test_fetches_what_is_needed_and_nothing_twice(server, command, folder, tmp_path):
    handler, _ = server
    done = fetch(command, "--output_dir=copy")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{REPOSITORY} at commit {COMMIT[:12]}" in done.stdout
    assert "a T5 of 1 + 1 layers, width 16, 512 logits, untied" in done.stdout
    assert "INITIAL_CHECKPOINT_PATH='\"copy\"'" in done.stdout
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {"config.json", "model.safetensors", "spiece.model", "tokenizer_config.json"}
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    assert not any("msgpack" in asked or "pytorch" in asked for asked in handler.asked)
    handler.asked.clear()
    again = fetch(command)
    assert again.returncode == 0 and "from the cache" in again.stdout
    assert not any(asked.startswith("GET /someorg") for asked in handler.asked)


def test_a_download_that_breaks_off_is_taken_up_again(server, command):
    handler, _ = server
    handler.faults["cut"] = "model.safetensors"
    done = fetch(command)
    assert done.returncode == 0, done.stderr[-2000:]
    gets = [a for a in handler.asked if a.startswith("GET") and "model.safetensors" in a]
    assert len(gets) == 2 and "whole" in done.stdout


def test_another_content_is_named_and_removed(server, command):
    handler, _ = server
    handler.faults["other content"] = "spiece.model"
    done = fetch(command)
    assert done.returncode == 1
    assert "spiece.model has another checksum than the listed" in done.stderr.splitlines()[-1]
    handler.faults.clear()
    assert fetch(command).returncode == 0


def test_without_a_network_the_cache_serves_or_one_line_says_what_to_do(server, command):
    done = fetch(command, HF_HUB_OFFLINE="1")
    (line,) = done.stderr.splitlines()[-1:]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "is not in the cache" in line and f"fetch_weights.py --name={REPOSITORY}" in line
    assert fetch(command).returncode == 0
    done = fetch(command, HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and "from the cache; http://127.0.0.1" in done.stdout
    dead = fetch(command, HF_ENDPOINT="http://127.0.0.1:9")
    assert dead.returncode == 0 and "http://127.0.0.1:9 can't be asked" in dead.stdout


def test_unknown_and_gated_names_are_said_in_a_line(server, command):
    handler, _ = server
    script = str(ROOT / "scripts" / "fetch_weights.py")
    done = command(script, "--name=someorg/other")
    assert done.returncode == 1 and "has no model someorg/other" in done.stderr.splitlines()[-1]
    handler.faults["gated"] = ""
    done = fetch(command)
    assert done.returncode == 1 and "HF_TOKEN" in done.stderr.splitlines()[-1]


def test_a_half_copied_folder_is_no_checkpoint(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"needs config\.json and one of"):
        hub.check_folder(tmp_path)
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files of weights are missing"):
        hub.check_folder(tmp_path)


def test_paths_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A bucket that another address stands for, as with a proxy, is not tried first.
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    assert hub.local("gs://bucket/checkpoint_1") == "gs://bucket/checkpoint_1"
    assert hub.local("t5x/flan_t5_xl") == hub.local("flan_t5_xl")
    assert hub.local("flan_t5_xl").endswith("x/flan_t5_xl/checkpoint_1138000")
    assert hub.is_hub_name("google/flan-t5-base@main") and hub.is_hub_name("t5-3b")
    for path in ("runs/a/b", "./runs/a", "/runs/a", "run", "a/checkpoint_5", "run*/a", "~/run"):
        assert not hub.is_hub_name(path)
    assert hub.is_hub_name("runs/a")
    (tmp_path / "runs").mkdir()
    assert not hub.is_hub_name("runs/a")  # a run that is not there
    (tmp_path / "google" / "flan-t5-base").mkdir(parents=True)
    assert hub.local("google/flan-t5-base") == "google/flan-t5-base"


@pytest.mark.parametrize("name", ["flan_t5_xl", hub.BUCKET_NAMES["flan_t5_xl"]])
def test_t5x_bucket_that_cannot_be_reached_is_said_at_once(name, monkeypatch):
    for variable in hub._OTHER_WAYS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(hub, "_BUCKET_HOST", "127.0.0.1")  # where nothing listens at port 443
    with pytest.raises(FileNotFoundError, match=rf"can't be reached .*--input={name} --output"):
        conversion.open_weights(name)


def test_pickles_are_refused_before_they_are_fetched(server, command, tmp_path):
    handler, _ = server
    handler.folder = shutil.copytree(handler.folder, tmp_path / "served")
    (handler.folder / "model.safetensors").unlink()
    without_torch = (
        "import sys, runpy; sys.modules['torch'] = None; del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = str(ROOT / "scripts" / "fetch_weights.py")
    done = command("-c", without_torch, script, f"--name={REPOSITORY}")
    assert done.returncode == 1
    assert "pip install torch" in done.stderr.splitlines()[-1]
    assert not any("pytorch_model.bin" in asked for asked in handler.asked)


def test_a_folder_without_its_vocabulary_says_so(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "spiece.model").rename(copy / "tokenizer.json")
    (chosen,) = selection.select(str(copy))
    with pytest.raises(FileNotFoundError, match=r"no spiece\.model, only tokenizer\.json"):
        selection.load(chosen)
    _, said = initial.read(str(copy), CONFIG, corpus.arith_vocabulary())
    assert "the vocabulary was not compared" in said
    _, said = initial.read(str(folder), CONFIG, corpus.arith_vocabulary())
    assert "not compared" not in said


@pytest.mark.slow
def test_names_start_a_run_and_are_evaluated(command, tmp_path):
    """Embedded training and inference from a name alone."""
    build = str(ROOT / "scripts" / "build_corpus.py")
    assert command(build, "--corpus=arith", "--tfds_data_dir=tfds").returncode == 0
    macros = {
        "MODEL_DIR": "'run'",
        "INITIAL_CHECKPOINT_PATH": f"'{REPOSITORY}'",
        "TRAIN_STEPS": "3",
        "WARMUP_STEPS": "1",
        "COUNT_EXAMPLES": "50",
        "BATCH_SIZE": "2",
        "EMB_DIM": "16",
        "NUM_HEADS": "2",
        "HEAD_DIM": "8",
        "MLP_DIM": "32",
        "NUM_LAYERS": "1",
    }
    trained = command(
        *("-m", "cotdistill_jax.train", f"--gin_file={ROOT}/gin/experiments/arith_quickstart.gin"),
        f"--gin_file={ROOT}/gin/runs/finetune.gin",
        *(f"--gin.{name}={value}" for name, value in macros.items()),
        COTDISTILL_TFDS_DIR="tfds",
    )
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert f"starts from the weights of {REPOSITORY} (huggingface" in trained.stdout
    evaluated = command(
        *("-m", "cotdistill_jax.inference", f"--checkpoint={REPOSITORY}", "--benchmarks=arith"),
        *("--prompt=zero_shot_cot", "--output_dir=out", "--num_examples=3", "--max_new_tokens=8"),
        HF_HUB_OFFLINE="1",
    )
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert json.loads((tmp_path / "out" / "results.json").read_text())
