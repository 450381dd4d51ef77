"""Files in buckets, with the methods of `pathlib.Path` that the project uses.

TensorStore's client reads and writes them: it is there wherever a checkpoint can be read, needs no TensorFlow, sees every change at once
(TensorFlow's client remembers sizes for seconds), waits out a lost network for minutes, and writes under a precondition on an
object's generation, which `locks.py` needs. Schemes are those that it opens: `gs://` and `s3://`.
"""

import fnmatch
import functools
import io
import os
import posixpath
import re
from collections.abc import Iterator
from typing import IO, Any, Self

SCHEMES = ("gs", "s3")
_URL = re.compile(
    r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<bucket>[^/]*)(?P<key>.*)$", re.DOTALL
)
_RETRIES = {"max_retries": 32, "initial_delay": "1s", "max_delay": "32s"}  # 14 minutes
_FEW_RETRIES = {"max_retries": 4, "initial_delay": "500ms", "max_delay": "4s"}


class BucketError(OSError):
    """A bucket that did not do what was asked; the message says what, where and what to do."""


class SchemeError(ValueError):
    """A URL that nothing here can open."""


def is_url(path: object) -> bool:
    """Returns whether a path is written as `scheme://...`."""
    return _URL.match(str(path)) is not None


class BucketPath:
    """An object, or a prefix of objects as a folder, in a bucket.

    It has no `__fspath__`, so that what knows local paths alone refuses it instead of making a folder named `gs:`. A folder exists while
    something lies below it: `mkdir` makes nothing. What is written appears whole, when it is closed, and replaces what was there.

    Attributes:
        scheme: `gs` or `s3`.
        bucket: name of the bucket.
        key: of the object, without a slash at either end; "" is the bucket itself.
    """

    def __init__(self, url: "str | BucketPath") -> None:
        """Takes a URL apart.

        Raises:
            SchemeError: not one that can be opened, or without a bucket; the message says what can.
        """
        match = _URL.match(str(url))
        scheme = match["scheme"].lower() if match else ""
        if match is None or scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise SchemeError(
                f"files: {str(url)!r} is of a kind that is not read or written here; expected a local path or one of {known}"
            )
        if not match["bucket"]:
            raise SchemeError(
                f"files: {str(url)!r} names no bucket; expected {scheme}://BUCKET/..."
            )
        self.scheme, self.bucket = scheme, match["bucket"]
        parts = match["key"].split("/")
        if ".." in parts:
            raise SchemeError(
                f"files: {str(url)!r} holds '..', which buckets do not know; write the path out"
            )
        self.key = "/".join(part for part in parts if part not in ("", "."))

    def __str__(self) -> str:
        """Returns the URL."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __repr__(self) -> str:
        """Returns the URL as Python text would make it."""
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        """Returns whether both name the same object."""
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __hash__(self) -> int:
        """Returns the hash of the URL."""
        return hash(str(self))

    def __lt__(self, other: Self) -> bool:
        """Compares as `pathlib` does, part by part."""
        return self.parts < other.parts

    def __truediv__(self, name: "str | os.PathLike[str]") -> Self:
        """Returns the path of what lies below."""
        return type(self)(f"{self}/{os.fspath(name)}")

    def joinpath(self, *names: str) -> Self:
        """Returns the path of what lies below."""
        return type(self)("/".join([str(self), *names]))

    @property
    def parts(self) -> tuple[str, ...]:
        """`('gs://bucket', 'folder', 'name')`."""
        root = f"{self.scheme}://{self.bucket}"
        return (root, *self.key.split("/")) if self.key else (root,)

    @property
    def name(self) -> str:
        """The last part; "" of a bucket."""
        return posixpath.basename(self.key)

    @property
    def suffix(self) -> str:
        """The name from its last dot on."""
        return posixpath.splitext(self.name)[1]

    @property
    def stem(self) -> str:
        """The name up to its last dot."""
        return posixpath.splitext(self.name)[0]

    @property
    def parent(self) -> Self:
        """The folder; of a bucket itself."""
        return type(self)(f"{self.scheme}://{self.bucket}/{posixpath.dirname(self.key)}")

    def with_name(self, name: str) -> Self:
        """Returns the path beside this one."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> Self:
        """Returns the path with another suffix."""
        return self.with_name(self.stem + suffix)

    def absolute(self) -> Self:
        """Returns itself, as every URL is whole."""
        return self

    resolve = expanduser = absolute

    def exists(self) -> bool:
        """Returns whether it is a file or a folder."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Returns whether there is an object of exactly this name."""
        return bool(self.key) and self._read(slice(0, 0)) is not None

    def is_dir(self) -> bool:
        """Returns whether something lies below."""
        return next(self._keys(), None) is not None

    def iterdir(self) -> Iterator[Self]:
        """Yields what lies directly below, sorted."""
        for name in sorted({key.split("/", 1)[0] for key in self._keys()}):
            yield self / name

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yields the files and folders below whose parts match those of a pattern; `**` is not known here."""
        wanted = pattern.split("/")
        found = {
            "/".join(parts[: len(wanted)])
            for parts in (key.split("/") for key in self._keys())
            if len(parts) >= len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
        }
        for name in sorted(found):
            yield self / name

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yields the files anywhere below whose names match."""
        for key in sorted(self._keys()):
            if not key.endswith("/") and fnmatch.fnmatchcase(posixpath.basename(key), pattern):
                yield self / key

    def read_head(self, size: int) -> bytes:
        """Returns the first `size` bytes, or all where there are fewer."""
        try:
            head = self._read(slice(0, size)) if self.key else None
        except BucketError as error:
            if "OUT_OF_RANGE" not in str(error):
                raise
            return self.read_bytes()  # shorter than that
        return self._there(head)

    def read_range(self, first: int, last: int) -> bytes:
        """Returns the bytes from `first` up to `last`, which is not among them.

        Raises:
            FileNotFoundError: there is no such object.
            BucketError: it is shorter, or can't be read.
        """
        return self._there(self._read(slice(first, last)))

    def read_bytes(self) -> bytes:
        """Returns the content.

        Raises:
            FileNotFoundError: there is no such object.
            BucketError: it can't be read.
        """
        return self._there(self._read() if self.key else None)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns the content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> int:
        """Writes or replaces the object, whole.

        Raises:
            BucketError: it can't be written.
        """
        self._call(lambda store: store.write(self.key, content))
        return len(content)

    def write_text(self, content: str, encoding: str = "utf-8") -> int:
        """Writes or replaces the object, whole."""
        return self.write_bytes(content.encode(encoding))

    def open(self, mode: str = "r", encoding: str = "utf-8", newline: str | None = None) -> IO[Any]:
        """Returns a file that is read from memory, or written to the bucket when it is closed without an error."""
        if mode in ("r", "rb"):
            content = io.BytesIO(self.read_bytes())
            return (
                content
                if mode == "rb"
                else io.TextIOWrapper(content, encoding=encoding, newline=newline)
            )
        if mode in ("w", "wb"):
            sink = _Upload(self)
            return sink if mode == "wb" else _TextUpload(sink, encoding=encoding)
        raise ValueError(f"files: {self} can be opened as r, rb, w and wb, not as {mode}")

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder is there when something lies in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object; one that is not there is no error, as in buckets."""
        self._call(lambda store: store.write(self.key, None))

    def remove_tree(self) -> None:
        """Removes everything below."""
        self._call(lambda store: store.delete_range(_range(f"{self.key}/")))

    def write_if(self, generation: bytes, content: bytes) -> bytes | None:
        """Writes where the object is still of a generation; returns its new one, None where it was another.

        Args:
            generation: from `generation`.
            content: to write.
        """
        stamp = self._call(lambda store: store.write(self.key, content, if_equal=generation))
        return stamp.generation or None

    def generation(self) -> tuple[bytes, bytes | None]:
        """Returns the generation, also of an object that is not there, and the content, None where there is none."""
        found = self._call(lambda store: store.read(self.key))
        return found.stamp.generation, found.value if found.state == "value" else None

    def check_writable(self) -> None:
        """Writes, reads and removes an object below this one; does not wait long for a network that is not there.

        Raises:
            BucketError: one of these can't be done; the message says why.
        """
        probe = self / f".writable-{os.getpid()}"
        store = _open(self.scheme, self.bucket, patient=False)
        for asked in (
            lambda: store.write(probe.key, b"1"),
            lambda: store.read(probe.key),
            lambda: store.write(probe.key, None),
        ):
            _answer(asked, self)

    def _there(self, content: bytes | None) -> bytes:
        if content is None:
            raise FileNotFoundError(2, "No such file in the bucket", str(self))
        return content

    def _read(self, span: slice = slice(None)) -> bytes | None:
        wanted = {} if span == slice(None) else {"byte_range": span}
        found = self._call(lambda store: store.read(self.key, **wanted))
        return found.value if found.state == "value" else None

    def _keys(self) -> Iterator[str]:
        """Yields the keys below this one, without it."""
        below = f"{self.key}/" if self.key else ""
        keys = self._call(lambda store: store.list(_range(below)))
        if not keys:
            # TensorStore answers a list that it may not see with an empty one; reading says so.
            self._call(lambda store: store.read(f"{below}.listed"))
        for key in keys:
            name = key.decode("utf-8").removeprefix(below)
            if name:  # a folder's marker, which other tools make
                yield name

    def _call(self, ask: Any) -> Any:
        return _answer(lambda: ask(_open(self.scheme, self.bucket)), self)


class _Upload(io.BytesIO):
    """A file in memory that becomes an object when it is closed, unless an exception is under way in its `with`."""

    def __init__(self, path: BucketPath) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            self._path.write_bytes(self.getvalue())
        super().close()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            super().close()
        self.close()


class _TextUpload(io.TextIOWrapper):
    def __init__(self, sink: _Upload, encoding: str) -> None:
        super().__init__(sink, encoding=encoding, write_through=True)
        self._sink = sink

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            io.BytesIO.close(self._sink)
        else:
            self.close()


def _range(below: str) -> Any:
    import tensorstore as ts

    # "0" follows "/", so that these are all the keys that begin with `below`.
    return ts.KvStore.KeyRange(below, f"{below[:-1]}0" if below else "")


@functools.lru_cache(maxsize=16)
def _open(scheme: str, bucket: str, patient: bool = True) -> Any:
    """Returns the key-value store of a whole bucket."""
    import tensorstore as ts

    retries = _RETRIES if patient else _FEW_RETRIES
    context = ts.Context({"gcs_request_retries": retries, "s3_request_retries": retries})
    return _answer(
        lambda: ts.KvStore.open(f"{scheme}://{bucket}/", context=context),
        f"{scheme}://{bucket}",
    )


def _answer(ask: Any, where: object) -> Any:
    """Returns what TensorStore answers.

    Raises:
        BucketError: it answers with an error.
    """
    try:
        return ask().result()
    except (ValueError, OSError) as error:
        raise BucketError(explain(str(error), where)) from error


_REASONS = (
    (r"invalid_grant|iat and exp|RequestTimeTooSkewed|clock",
     "the clock of this machine is off, so that its credentials are refused", "set the clock (timedatectl set-ntp true)"),
    (r"bucket does not exist|NoSuchBucket", "there is no such bucket", "make it (gcloud storage buckets create), or mend the name"),
    (r"http_response_code='401'|HTTP response code 401|[Aa]nonymous caller|Unauthenticated|UNAUTHENTICATED|invalid_client|Could not load credentials",
     "no credentials, or expired ones",
     "run `gcloud auth application-default login`, give the VM a service account, or set GOOGLE_APPLICATION_CREDENTIALS"),
    (r"http_response_code='403'|HTTP response code 403|PERMISSION_DENIED|does not have storage|AccessDenied",
     "no permission", "grant the account that this process runs as roles/storage.objectUser on the bucket"),
    (r"http_response_code='429'|HTTP response code 429|RESOURCE_EXHAUSTED", "too many requests, also after many tries", "run the same command again, later"),
    (r"CURL error|retry attempts failed|UNAVAILABLE|DEADLINE|Could not resolve|Error executing an HTTP request",
     "no connection, also after several tries", "look at the network, then run the same command again"),
)  # fmt: skip


def explain_foreign(error: Exception) -> str | None:
    """Returns what a library's error about a bucket means, in one line; None where it is not about one, or for no known reason."""
    message = str(error)
    about = re.search(r"(?:gs|s3)://[^\s'\"]*|\w*\.?googleapis\.com", message)
    known = any(re.search(pattern, message) for pattern, _, _ in _REASONS)
    return explain(message, about[0]) if about and known else None


def explain(message: str, where: object) -> str:
    """Returns what an error of any client of buckets means, in one line: where, what, what to do, what was said.

    Args:
        message: of TensorStore, TensorFlow or Orbax.
        where: URL.
    """
    said = " ".join(message.split())[:300]
    for pattern, reason, remedy in _REASONS:
        if re.search(pattern, message):
            return f"files: {where}: {reason}; {remedy}. The answer: {said}"
    return f"files: {where}: {said}"
