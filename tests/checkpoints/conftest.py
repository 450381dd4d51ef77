"""A bucket of Google Cloud Storage: a local server for the files of a folder."""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.parse

import pytest


class _Bucket(http.server.BaseHTTPRequestHandler):
    """As much of Google Cloud Storage's JSON interface as reading needs, for the files below `folder`; other buckets lie in it."""

    folder: pathlib.Path
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        bucket, _, rest = address.path.partition("/b/")[2].partition("/o")
        root = self.folder if bucket == "bucket" else self.folder / bucket
        name = urllib.parse.unquote(rest.removeprefix("/"))
        query = urllib.parse.parse_qs(address.query)
        if not name:
            self._send(200, self._list(root, query))
            return
        file = root / name
        if not file.is_file():
            self._send(404, b"")
            return
        content = file.read_bytes()
        if query.get("alt") != ["media"]:
            described = {"name": name, "size": str(len(content)), "generation": "1"}
            self._send(200, json.dumps(described).encode())
            return
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not first and not last:
            self._send(200, content)
            return
        start = int(first) if first else len(content) - int(last)
        end = min(int(last), len(content) - 1) if first and last else len(content) - 1
        self._send(206, content[start : end + 1], f"bytes {start}-{end}/{len(content)}")

    def _list(self, root: pathlib.Path, query: dict[str, list[str]]) -> bytes:
        prefix, first, end = (
            query.get(key, [""])[0] for key in ("prefix", "startOffset", "endOffset")
        )
        names = (str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())
        items = [
            {"name": n, "size": "1"}
            for n in sorted(names)
            if n.startswith(prefix) and first <= n and (not end or n < end)
        ]
        return json.dumps({"items": items}).encode()

    def _send(self, status: int, content: bytes, part: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-goog-generation", "1")
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Keeps requests out of the tests' output."""


@pytest.fixture
def in_bucket(tmp_path):
    """Runs Python in a process for which `gs://bucket/` is the folder `tmp_path`, `gs://NAME/` one in it; returns the lines that it printed."""
    handler = type("Bucket", (_Bucket,), {"folder": tmp_path})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"

    def run(script: str) -> list[str]:
        environment = {
            "TENSORSTORE_GCS_HTTP_URL": f"http://{address}",
            "GCE_METADATA_ROOT": address,
            "HOME": str(tmp_path / "home"),
        }
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()

    yield run
    server.shutdown()
