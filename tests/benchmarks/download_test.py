"""Downloads from a real HTTP server on this machine, which misbehaves as a test asks."""

import dataclasses
import errno
import hashlib
import http.server
import json
import os
import threading

import pytest

from cotdistill_jax.benchmarks import bbh, download, sources

CONTENT = bytes(range(256)) * 1000
NO_PAUSE = (0.0, 0.0)


@dataclasses.dataclass
class Server:
    """What the server does and saw.

    Attributes:
      url: address of the server.
      answers: per request, in turn: a status (sent without body), `truncated` (half of the body),
        `whole` (ignores a range) or `altered`; `good` when used up.
      seen: per request its Range header.
    """

    url: str
    answers: list = dataclasses.field(default_factory=list)
    seen: list = dataclasses.field(default_factory=list)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server(url="")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested = self.headers["Range"]
            state.seen.append(requested)
            answer = state.answers.pop(0) if state.answers else "good"
            if isinstance(answer, int):
                self.send_error(answer)
                return
            resumes = requested is not None and answer != "whole"
            start = int(requested.removeprefix("bytes=").rstrip("-")) if resumes else 0
            body = CONTENT[start:] if answer != "altered" else bytes(len(CONTENT) - start)
            self.send_response(206 if resumes else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if answer == "truncated" else body)

        def log_message(self, *args):
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/file"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def source(url, path="gsm8k/test.jsonl", content=CONTENT):
    return sources.Source(path, url, len(content), hashlib.sha256(content).hexdigest())


def fetch(folder, server):
    return download.fetch(folder, sources=[source(server.url)], pauses_seconds=NO_PAUSE)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_downloads_once_and_keeps_what_is_there(tmp_path, server):
    assert fetch(tmp_path, server) == {"kept": 0, "downloaded": 1, "copied": 0}
    assert (tmp_path / "gsm8k/test.jsonl").read_bytes() == CONTENT
    assert fetch(tmp_path, server) == {"kept": 1, "downloaded": 0, "copied": 0}
    assert server.seen == [None]
    assert files_in(tmp_path) == ["gsm8k/test.jsonl", "manifest.json"]


def test_manifest_names_every_file_with_its_checksum(tmp_path, server):
    fetch(tmp_path, server)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["artefact"] == "benchmarks"
    assert manifest["schema_version"] == 1
    assert manifest["counts"] == {"in": 1, "out": 1, "kept": 0, "downloaded": 1, "copied": 0}
    assert manifest["files"] == [dataclasses.asdict(source(server.url))]


@pytest.mark.parametrize("passing", [500, 503, 429])
def test_a_passing_fault_is_retried(tmp_path, server, passing):
    server.answers = [passing]
    assert fetch(tmp_path, server)["downloaded"] == 1
    assert len(server.seen) == 2


def test_a_truncated_body_is_resumed(tmp_path, server):
    server.answers = ["truncated"]
    assert fetch(tmp_path, server)["downloaded"] == 1
    assert server.seen == [None, f"bytes={len(CONTENT) // 2}-"]
    assert (tmp_path / "gsm8k/test.jsonl").read_bytes() == CONTENT


def test_an_interrupted_run_is_resumed_by_the_next(tmp_path, server):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl.part").write_bytes(CONTENT[:1000])
    assert fetch(tmp_path, server)["downloaded"] == 1
    assert server.seen == ["bytes=1000-"]


def test_a_complete_part_needs_no_request(tmp_path, server):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl.part").write_bytes(CONTENT)
    assert fetch(tmp_path, server)["downloaded"] == 1
    assert server.seen == []


@pytest.mark.parametrize("second", ["whole", 416])
def test_a_server_that_cannot_resume_sends_it_whole(tmp_path, server, second):
    server.answers = ["truncated", second]
    assert fetch(tmp_path, server)["downloaded"] == 1
    assert (tmp_path / "gsm8k/test.jsonl").read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"stale", CONTENT + b"longer", bytes(len(CONTENT))])
def test_a_stale_part_is_thrown_away(tmp_path, server, stale):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl.part").write_bytes(stale)
    assert fetch(tmp_path, server)["downloaded"] == 1
    assert (tmp_path / "gsm8k/test.jsonl").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_at_once_and_leaves_nothing(tmp_path, server):
    server.answers = ["altered"]
    expected = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(
        download.DownloadError, match=f"is not the known file: .* expected {expected}"
    ):
        fetch(tmp_path, server)
    assert len(server.seen) == 1
    assert files_in(tmp_path) == []


def test_a_longer_file_than_known_is_refused(tmp_path, server):
    wanted = source(server.url, content=CONTENT[:-1])
    with pytest.raises(download.DownloadError, match="is not the known file"):
        download.fetch(tmp_path, sources=[wanted], pauses_seconds=NO_PAUSE)


def test_a_missing_page_is_not_retried(tmp_path, server):
    server.answers = [404]
    with pytest.raises(
        download.DownloadError, match=r"gsm8k/test.jsonl: http://.*: HTTP status 404"
    ):
        fetch(tmp_path, server)
    assert len(server.seen) == 1


def test_a_lasting_fault_is_given_up_with_its_reason(tmp_path, server):
    server.answers = [500] * 9
    with pytest.raises(download.DownloadError, match="failed 3 times; last: HTTP status 500"):
        fetch(tmp_path, server)
    assert len(server.seen) == 3


def test_no_server_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(download.DownloadError, match=r"failed 3 times; last: .*refused"):
        download.fetch(tmp_path, sources=[source("http://127.0.0.1:1/x")], pauses_seconds=NO_PAUSE)


def test_one_failure_leaves_the_others_in_place(tmp_path, server):
    wanted = [source(server.url, path=f"gsm8k/{n}") for n in range(3)]
    server.answers = ["good", 404, "good"]
    with pytest.raises(download.DownloadError, match=r"1 of 3 benchmark files .*\n  gsm8k/1: "):
        download.fetch(tmp_path, sources=wanted, pauses_seconds=NO_PAUSE)
    assert files_in(tmp_path) == ["gsm8k/0", "gsm8k/2"]
    counts = download.fetch(tmp_path, sources=wanted, pauses_seconds=NO_PAUSE)
    assert counts == {"kept": 2, "downloaded": 1, "copied": 0}


def test_a_file_of_other_content_is_never_overwritten(tmp_path, server):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl").write_text("mine")
    with pytest.raises(
        download.DownloadError, match=r"test.jsonl exists with other content .* Move it away"
    ):
        fetch(tmp_path, server)
    assert (tmp_path / "gsm8k/test.jsonl").read_text() == "mine"
    assert server.seen == []


def test_copies_from_a_local_folder(tmp_path):
    (tmp_path / "from/gsm8k").mkdir(parents=True)
    (tmp_path / "from/gsm8k/test.jsonl").write_bytes(CONTENT)
    wanted = [source("http://never.invalid/")]
    counts = download.fetch(tmp_path / "to", tmp_path / "from", wanted)
    assert counts == {"kept": 0, "downloaded": 0, "copied": 1}
    assert (tmp_path / "to/gsm8k/test.jsonl").read_bytes() == CONTENT


def test_a_local_folder_with_a_wrong_or_missing_file_is_named(tmp_path):
    (tmp_path / "from/gsm8k").mkdir(parents=True)
    (tmp_path / "from/gsm8k/test.jsonl").write_bytes(CONTENT[:-1])
    wanted = [source("", path=path) for path in ("gsm8k/test.jsonl", "svamp/SVAMP.json")]
    with pytest.raises(download.DownloadError) as caught:
        download.fetch(tmp_path / "to", tmp_path / "from", wanted)
    assert "from/gsm8k/test.jsonl is not the known file" in str(caught.value)
    assert f"looked for {tmp_path / 'from/svamp/SVAMP.json'}" in str(caught.value)
    assert files_in(tmp_path / "to") == []
    with pytest.raises(FileNotFoundError, match="there is no source folder"):
        download.fetch(tmp_path / "to", tmp_path / "nowhere", wanted)


def test_a_full_disk_is_not_retried_and_loses_nothing(tmp_path, server, monkeypatch):
    def full(fd, *args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            fetch(tmp_path, server)
    assert len(server.seen) == 1
    assert fetch(tmp_path, server)["downloaded"] == 1
    assert len(server.seen) == 1


def test_the_table_covers_what_the_readers_open():
    paths = [known.path for known in sources.SOURCES]
    assert len(set(paths)) == len(paths) == 7 + 2 * 27
    assert {"gsm8k/train.jsonl", "gsm8k/seed_dev_200_index.npy", "t5/spiece.model"} <= set(paths)
    assert {f"bbh/bbh/{task}.json" for task in bbh.TASKS} <= set(paths)


def test_every_url_is_pinned_to_a_commit():
    for known in sources.SOURCES:
        assert known.url.startswith(
            ("https://raw.githubusercontent.com/", "https://huggingface.co/")
        )
        assert any(len(part) == 40 and int(part, 16) for part in known.url.split("/")[5:7])


@pytest.mark.real_data
def test_known_checksums_are_those_of_the_real_files(data_dir, tmp_path):
    counts = download.fetch(tmp_path, source_dir=data_dir)
    assert counts == {"kept": 0, "downloaded": 0, "copied": len(sources.SOURCES)}
