"""A bucket server on this machine that speaks Google Cloud Storage's JSON API, as much of it as TensorStore, TensorFlow and so Orbax use.

TensorStore is led here by `TENSORSTORE_GCS_HTTP_URL`. TensorFlow knows only Google's own hosts, so it comes through this server as
a proxy for https, which answers in their place with a certificate that `CURL_CA_BUNDLE` makes it trust. `environment` has all of it.

    with GcsServer(folder) as server:
        server.make_bucket("runs")
        subprocess.run([...], env={**os.environ, **server.environment})

Faults are injected by `Fault`: a status, a delay, an answer that is cut off, for requests that match and so many times.
"""

import dataclasses
import email.utils
import http.server
import json
import os
import pathlib
import re
import ssl
import subprocess
import threading
import time
import urllib.parse
from typing import Any, Self

_HOSTS = ("www.googleapis.com", "storage.googleapis.com")


@dataclasses.dataclass
class Fault:
    """What goes wrong with requests.

    Attributes:
      method: of the requests, such as "POST"; "" for all.
      path: regular expression that is searched in path and query, still quoted.
      times: how often; each match counts one down.
      status: HTTP status to answer with; None: the request is served.
      delay_s: seconds to wait first.
      cut: whether the connection ends in the middle of the answer.
      message: of the JSON error.
    """

    method: str = ""
    path: str = ""
    times: int = 1
    status: int | None = None
    delay_s: float = 0.0
    cut: bool = False
    message: str = "injected"


@dataclasses.dataclass
class _Object:
    content: bytes
    generation: int
    updated: float


class GcsServer:
    """Serves buckets from memory; use as a context manager.

    Attributes:
      environment: variables under which a process's `gs://` paths lead here.
      faults: those to come, in order of their search.
      log: "METHOD path" of every request.
      offline: while set, no request is answered: connections are closed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Makes the certificate.

        Args:
          folder: for the certificate; exists.
        """
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.offline = threading.Event()
        self._buckets: dict[str, dict[str, _Object]] = {}
        self._uploads: dict[str, tuple[str, str, bytearray]] = {}
        self._lock = threading.RLock()
        self._generation = 1
        certificate = pathlib.Path(folder) / "certificate.pem"
        key = pathlib.Path(folder) / "key.pem"
        names = ",".join(f"DNS:{host}" for host in _HOSTS)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
             "-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate, key)
        handler = type("Handler", (_Handler,), {"served": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "https_proxy": self.url,
            "CURL_CA_BUNDLE": str(certificate),
            "STORAGE_EMULATOR_HOST": self.url,
            "NO_GCE_CHECK": "true",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
        }

    def __enter__(self) -> Self:
        """Starts to serve."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops."""
        self._server.shutdown()
        self._server.server_close()

    def make_bucket(self, name: str) -> None:
        """Makes an empty bucket."""
        self._buckets[name] = {}

    def files(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Returns name -> content of a bucket's objects below a prefix, their names without it."""
        with self._lock:
            return {
                name.removeprefix(prefix): item.content
                for name, item in sorted(self._buckets[bucket].items())
                if name.startswith(prefix)
            }

    def put(self, bucket: str, name: str, content: bytes) -> dict[str, Any]:
        """Writes an object and returns its description."""
        with self._lock:
            self._generation += 1
            item = _Object(content, self._generation, time.time())
            self._buckets[bucket][name] = item
            return describe(bucket, name, item)

    def take_fault(self, method: str, path: str) -> Fault | None:
        """Returns the fault that a request meets, counted down."""
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.method in ("", method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


def describe(bucket: str, name: str, item: _Object) -> dict[str, Any]:
    """Returns an object's resource as the API gives it."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(item.updated)) + ".000Z"
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "size": str(len(item.content)),
        "generation": str(item.generation),
        "metageneration": "1",
        "updated": when,
        "timeCreated": when,
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    served: GcsServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_CONNECT(self) -> None:
        """Answers https requests in the place of the host that was asked for."""
        if self.served.offline.is_set():
            self.close_connection = True
            return
        self.send_response(200)
        self.end_headers()
        self.connection = self.served.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _body(self) -> bytes:
        # TensorFlow gives the length of the content, too, where it sends chunks.
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _serve(self, method: str) -> None:
        served = self.served
        body = self._body()
        served.log.append(f"{method} {self.path}")
        if served.offline.is_set():
            self.close_connection = True
            return
        fault = served.take_fault(method, self.path)
        if fault:
            time.sleep(fault.delay_s)
            if fault.status:
                self._fail(fault.status, fault.message)
                return
        self._cut = bool(fault and fault.cut)
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        with served._lock:
            self._route(method, url.path, query, body)

    def _route(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        served = self.served
        upload = re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path)
        listing = re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path)
        one = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", path)
        moved = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)", path)
        bucket = re.fullmatch(r"/storage/v1/b/([^/]+)(?:/storageLayout)?", path)
        plain = re.fullmatch(r"/([^/]+)/(.+)", path)
        found = upload or listing or one or moved or bucket or plain
        if found is None:
            self._fail(404, f"no such address {path}")
            return
        names = [urllib.parse.unquote(part) for part in found.groups()]
        objects = served._buckets.get(names[0])
        if objects is None:
            self._fail(404, "The specified bucket does not exist.")
        elif upload and method == "POST":
            self._begin_upload(names[0], query, body)
        elif upload and method == "PUT":
            self._continue_upload(query, body)
        elif listing:
            self._list(names[0], objects, query)
        elif moved:
            content = objects[names[1]].content
            self._json({"done": True, "resource": served.put(names[2], names[3], content)})
        elif bucket:
            place = {"location": "US", "locationType": "region"}
            self._json({"name": names[0], "hierarchicalNamespace": {"enabled": False}, **place})
        elif names[1] not in objects:
            self._fail(404, f"No such object: {names[0]}/{names[1]}")
        elif method == "DELETE":
            if self._matches(objects.get(names[1]), query):
                del objects[names[1]]
                self._answer(204, b"")
        elif one and query.get("alt") != "media":
            self._json(describe(names[0], names[1], objects[names[1]]))
        else:
            self._content(objects[names[1]], query)

    def _matches(self, item: _Object | None, query: dict[str, str]) -> bool:
        """Returns whether the precondition on the generation holds; answers 412 where not."""
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != (item.generation if item else 0):
            self._fail(412, "At least one of the pre-conditions you specified did not hold.")
            return False
        return True

    def _begin_upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        name = query.get("name") or json.loads(body)["name"]
        objects = self.served._buckets[bucket]
        if not self._matches(objects.get(name), query):
            return
        if query["uploadType"] == "resumable":
            number = str(len(self.served._uploads))
            self.served._uploads[number] = (bucket, name, bytearray())
            host = self.headers["Host"]
            self._answer(
                200,
                b"",
                Location=f"https://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}",
            )
        else:
            self._json(self.served.put(bucket, name, body))

    def _continue_upload(self, query: dict[str, str], body: bytes) -> None:
        bucket, name, so_far = self.served._uploads[query["upload_id"]]
        span = re.fullmatch(
            r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers.get("Content-Range", "")
        )
        if span is None:  # all at once
            self._json(self.served.put(bucket, name, body))
            return
        if span[1]:
            so_far[int(span[1]) :] = body
        if span[3] != "*" and len(so_far) == int(span[3]):
            self._json(self.served.put(bucket, name, bytes(so_far)))
        else:
            received = {"Range": f"bytes=0-{len(so_far) - 1}"} if so_far else {}
            self._answer(308, b"", **received)

    def _list(self, bucket: str, objects: dict[str, _Object], query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        first, last = query.get("startOffset", ""), query.get("endOffset")
        items, prefixes = [], set()
        for name in sorted(objects):
            if not name.startswith(prefix) or name < first or (last is not None and name >= last):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest[: rest.index(delimiter) + 1])
            else:
                items.append(describe(bucket, name, objects[name]))
        start = int(query.get("pageToken") or 0)
        size = min(int(query.get("maxResults") or 1000), 1000)
        page = {"kind": "storage#objects", "items": items[start : start + size]}
        if prefixes:
            page["prefixes"] = sorted(prefixes)
        if len(items) > start + size:
            page["nextPageToken"] = str(start + size)
        self._json(page)

    def _content(self, item: _Object, query: dict[str, str]) -> None:
        if query.get("ifGenerationNotMatch") == str(item.generation):
            self._answer(304, b"")
            return
        headers = {"x-goog-generation": str(item.generation), "x-goog-hash": ""}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            self._answer(200, item.content, **headers)
            return
        first = int(span[1])
        last = min(int(span[2] or len(item.content)), len(item.content) - 1)
        if first >= len(item.content):
            self._answer(416, b"", **{"Content-Range": f"bytes */{len(item.content)}"})
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(item.content)}"
        self._answer(206, item.content[first : last + 1], **headers)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _fail(self, status: int, message: str) -> None:
        error = {"error": {"code": status, "message": message}}
        self._cut = False
        self._answer(status, json.dumps(error).encode(), **{"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Date", email.utils.formatdate(usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self._cut:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)
