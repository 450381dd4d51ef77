"""Fetching the benchmark files: from their public sources, or from a local folder, always by checksum.

A file is written as `<name>.part` and renamed once its SHA-256 is right, so a benchmark folder never holds a
half or wrong file under its real name. An interrupted download goes on where it stopped.

When all files are there, `manifest.json` says what each is and where it came from. Keys: `artefact`,
`schema_version`, `code_version`, `config`, `counts` (in, out, kept, downloaded, copied), `files`.
"""

import dataclasses
import http.client
import os
import pathlib
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence

import tqdm

import cotdistill_jax
from cotdistill_jax import files
from cotdistill_jax.benchmarks.sources import SOURCES, Source
from cotdistill_jax.files import file_sha256, write_json_atomically
from cotdistill_jax.teacher.shards import MANIFEST_NAME

ARTEFACT = "benchmarks"
SCHEMA_VERSION = 1
_CHUNK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 60.0
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


class DownloadError(OSError):
    """A benchmark file could not be fetched, or is not what it should be."""


def fetch(
    data_dir: str | os.PathLike[str],
    source_dir: str | os.PathLike[str] | None = None,
    sources: Iterable[Source] = SOURCES,
    pauses_seconds: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
) -> dict[str, int]:
    """Returns how many files were kept, downloaded and copied, once all of them are in place.

    Example: a first run gives `{"kept": 0, "downloaded": 61, "copied": 0}`, a second one
    `{"kept": 61, "downloaded": 0, "copied": 0}`.

    Args:
      data_dir: benchmark folder to fill, made if missing; files with the right checksum are kept.
      source_dir: folder of the same layout to copy from; None downloads.
      sources: the files to fetch.
      pauses_seconds: pause before each further attempt at one download, so also how many there are.

    Raises:
      FileNotFoundError: there is no folder `source_dir`.
      DownloadError: some files could not be fetched, or other files are in their place; the message lists
        each with its reason. The rest is in place, and running again fetches the missing ones only.
    """
    sources = tuple(sources)
    folder = files.local_path(data_dir, "download", "the benchmark files")
    if source_dir is not None and not os.path.isdir(source_dir):
        raise FileNotFoundError(f"download: there is no source folder {os.fspath(source_dir)}")
    outcomes, failures, num_bytes = {}, [], 0
    total = sum(source.num_bytes for source in sources)
    with tqdm.tqdm(total=total, unit="B", unit_scale=True, disable=None) as bar:
        for source in sources:
            bar.set_description(source.path)
            try:
                outcomes[source.path] = _provide(
                    source, folder, source_dir, pauses_seconds, bar.update
                )
            except DownloadError as error:
                failures.append(f"{source.path}: {error}")
            num_bytes += source.num_bytes
            bar.update(num_bytes - bar.n)
    if failures:
        raise DownloadError(
            f"download: {len(failures)} of {len(sources)} benchmark files could not be put into {folder}. "
            "The others are in place; run the same command again to fetch the rest.\n  "
            + "\n  ".join(failures)
        )
    counts = {how: list(outcomes.values()).count(how) for how in ("kept", "downloaded", "copied")}
    _write_manifest(folder, source_dir, sources, counts)
    return counts


def _provide(
    source: Source,
    folder: pathlib.Path,
    source_dir: str | os.PathLike[str] | None,
    pauses_seconds: Sequence[float],
    progress: Callable[[int], object],
) -> str:
    """Puts one file in place and returns how: `kept`, `downloaded` or `copied`."""
    target = folder / source.path
    if target.exists():
        if file_sha256(target) != source.sha256:
            raise DownloadError(
                f"{target} exists with other content (SHA-256 {file_sha256(target)}, expected "
                f"{source.sha256}). Move it away or choose another folder."
            )
        return "kept"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if source_dir is not None:
        _copy(
            files.local_path(source_dir, "download", "the source folder") / source.path,
            part,
            source,
        )
    else:
        _download(source, part, pauses_seconds, progress)
    os.replace(part, target)
    return "downloaded" if source_dir is None else "copied"


def _copy(origin: pathlib.Path, part: pathlib.Path, source: Source) -> None:
    """Copies a local file to `part` and checks it."""
    if not origin.is_file():
        raise DownloadError(f"no such file in the source folder (looked for {origin})")
    shutil.copyfile(origin, part)
    _check(part, source, str(origin))


def _download(
    source: Source,
    part: pathlib.Path,
    pauses_seconds: Sequence[float],
    progress: Callable[[int], object],
) -> None:
    """Downloads to `part`, going on where an earlier attempt stopped, and checks the result."""
    problem = ""
    for pause in (0.0, *pauses_seconds):
        time.sleep(pause)
        resumed = part.exists()
        try:
            _append(source, part, progress)
            if part.stat().st_size >= source.num_bytes:
                _check(part, source, source.url)
                return
            problem = f"ended after {part.stat().st_size} of {source.num_bytes} bytes"
        except DownloadError as error:
            if not resumed:  # a file downloaded whole stays wrong however often it is asked for
                raise
            problem = str(error)
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code} ({error.reason})"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()
            elif error.code not in _PASSING_STATUS:
                raise DownloadError(f"{source.url}: {problem}") from error
        except _NETWORK_ERRORS as error:
            problem = str(error) or type(error).__name__
    raise DownloadError(f"{source.url}: failed {1 + len(pauses_seconds)} times; last: {problem}")


def _append(source: Source, part: pathlib.Path, progress: Callable[[int], object]) -> None:
    """Requests what `part` lacks and writes it as it comes; a server that ignores ranges starts anew."""
    have = part.stat().st_size if part.exists() else 0
    if have >= source.num_bytes:
        return
    headers = {"User-Agent": f"cotdistill_jax/{cotdistill_jax.__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(source.url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        resumes = response.status == http.HTTPStatus.PARTIAL_CONTENT
        left = source.num_bytes - (have if resumes else 0) + 1  # one more shows a longer file
        with part.open("ab" if resumes else "wb") as file:
            while left > 0 and (chunk := response.read(min(_CHUNK_BYTES, left))):
                file.write(chunk)
                progress(len(chunk))
                left -= len(chunk)


def _check(part: pathlib.Path, source: Source, origin: str) -> None:
    """Removes `part` and raises DownloadError unless it has the right content."""
    found = file_sha256(part)
    if found != source.sha256:
        num_bytes = part.stat().st_size
        part.unlink()
        raise DownloadError(
            f"{origin} is not the known file: SHA-256 {found} of {num_bytes} bytes read, expected "
            f"{source.sha256} of {source.num_bytes} bytes"
        )


def _write_manifest(
    folder: pathlib.Path,
    source_dir: str | os.PathLike[str] | None,
    sources: tuple[Source, ...],
    counts: dict[str, int],
) -> None:
    manifest = {
        "artefact": ARTEFACT,
        "schema_version": SCHEMA_VERSION,
        "code_version": cotdistill_jax.__version__,
        "config": {"source_dir": None if source_dir is None else os.fspath(source_dir)},
        "counts": {"in": len(sources), "out": sum(counts.values()), **counts},
        "files": [dataclasses.asdict(source) for source in sources],
    }
    write_json_atomically(folder / MANIFEST_NAME, manifest)
