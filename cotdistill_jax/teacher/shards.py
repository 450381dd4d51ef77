"""Whole-or-absent Parquet shards with a manifest, used by teacher records and by aligned corpora.

A folder written by `ShardWriter` holds `{prefix}-00000.parquet`, `{prefix}-00001.parquet`, ... and `manifest.json`. A shard is
written whole or not at all (`files.write_atomically`), so that an interruption at any point leaves only whole shards;
the manifest is replaced after every shard and says `"complete": true` only when the writer was closed without an error.

Manifest keys: `artefact`, `schema_version`, `code_version`, `complete`, `config`, `inputs` (checksums of what was read),
`counts` (`in`, `out`, `dropped` by reason), `shards` (`file`, `rows`, `bytes`, `sha256`).
"""

import collections
import dataclasses
import hashlib
import io
import json
import pathlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

import cotdistill_jax
from cotdistill_jax import files
from cotdistill_jax.files import file_sha256, write_json_atomically

MANIFEST_NAME = "manifest.json"


class ShardError(ValueError):
    """A folder of shards that is incomplete, damaged, of another kind, or of another schema."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What identifies one kind of shard folder.

    Attributes:
        artefact: noun that the manifest records, such as `teacher_records`.
        prefix: beginning of each shard's file name.
        schema: columns of every shard.
        schema_version: raised when the meaning or type of a column changes.
        repetitive: Parquet paths of string columns that hold few distinct values, which `read_shard` can leave as dictionaries.
    """

    artefact: str
    prefix: str
    schema: pa.Schema
    schema_version: int
    repetitive: tuple[str, ...] = ()


def read_manifest(folder: files.AnyPath, layout: Layout) -> dict[str, Any]:
    """Returns the manifest of a shard folder after checking that it is of the kind `layout`.

    Raises:
        FileNotFoundError: there is no manifest.
        ShardError: the manifest is of another artefact or schema version, or is not JSON.
    """
    path = files.as_path(folder) / MANIFEST_NAME
    if not path.exists():
        raise FileNotFoundError(
            f"{layout.artefact}: no {MANIFEST_NAME} in {path.parent}. Expected a folder that the writer of "
            f"{layout.artefact} made; check the path, or run that writer first."
        )
    try:
        manifest = files.read_json(path, layout.artefact)
    except files.ForeignFileError as error:
        raise ShardError(f"{error} Or write the folder again.") from error
    got = (manifest.get("artefact"), manifest.get("schema_version"))
    expected = (layout.artefact, layout.schema_version)
    if got != expected:
        raise ShardError(
            f"{layout.artefact}: {path} describes {got[0]} schema version {got[1]}, expected {expected[0]} schema "
            f"version {expected[1]}. Pass the right folder, or write it again with this version of the code."
        )
    return manifest


class ShardWriter:
    """Writes tables as numbered shards and keeps the manifest up to date.

    Use as a context manager: leaving it without an exception marks the manifest complete; leaving it with one keeps the whole
    shards and `"complete": false`, and `resume=True` continues there. `dropped` counts, by reason, what this run left out; a
    resumed run counts anew, because it sees the dropped inputs again.
    """

    def __init__(
        self,
        folder: files.AnyPath,
        layout: Layout,
        *,
        config: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        resume: bool = False,
    ) -> None:
        """Opens the folder.

        Args:
            folder: created when missing; must hold no shards unless `resume`.
            layout: kind of shards.
            config: JSON-able settings that made the data; a resumed run must have the same.
            inputs: checksums of the files that were read, by name.
            resume: continue a folder that an interrupted run left; a complete folder may be extended, too.

        Raises:
            FileExistsError: the folder holds shards and `resume` is false.
            ShardError: `resume` with another config, or with a damaged shard.
        """
        self.folder = files.as_path(folder)
        self.layout = layout
        self.dropped: collections.Counter[str] = collections.Counter()
        self.shards: list[dict[str, Any]] = []
        self._config = json.loads(json.dumps(config or {}))
        self._inputs = dict(inputs or {})
        self.folder.mkdir(parents=True, exist_ok=True)
        existing = self.existing_shards()
        if existing and not resume:
            raise FileExistsError(
                f"{layout.artefact}: {self.folder} already holds {len(existing)} shards. Pass another output folder, resume, "
                "or delete the folder first."
            )
        if resume:
            self._adopt(existing)
        self._write_manifest(complete=False)

    def existing_shards(self) -> list[files.Path]:
        """Returns the whole shards in the folder, in the order of their numbers."""
        return sorted(self.folder.glob(f"{self.layout.prefix}-*.parquet"))

    def write(self, table: pa.Table) -> files.Path:
        """Writes one table as the next shard and returns its path.

        Raises:
            ShardError: the table lacks a column of the layout or has one of another type.
        """
        path = self.folder / shard_name(self.layout, len(self.shards))
        write_shard(path, table, self.layout)
        self.shards.append(describe_shard(path))
        self._write_manifest(complete=False)
        return path

    def close(self) -> None:
        """Marks the folder complete."""
        self._write_manifest(complete=True)

    def __enter__(self) -> Self:
        """Returns the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Closes the writer unless an exception is under way."""
        if kind is None:
            self.close()

    def _adopt(self, existing: Sequence[files.Path]) -> None:
        """Takes over the whole shards of an interrupted run, including one that its manifest did not list yet."""
        if (self.folder / MANIFEST_NAME).exists():
            manifest = read_manifest(self.folder, self.layout)
            if manifest["config"] != self._config:
                raise ShardError(
                    f"{self.layout.artefact}: cannot resume {self.folder}: it was written with {manifest['config']}, this run "
                    f"has {self._config}. Use the same settings or another output folder."
                )
        for number, path in enumerate(existing):
            if path.name != shard_name(self.layout, number):
                raise ShardError(
                    f"{self.layout.artefact}: {self.folder} has {path.name} where shard {number:05d} was expected. A shard was "
                    "deleted or renamed; restore it, or write the folder again."
                )
            check_columns(_open(path, self.layout).schema_arrow, self.layout, where=str(path))
            self.shards.append(describe_shard(path))

    def _write_manifest(self, complete: bool) -> None:
        write_manifest(
            self.folder,
            self.layout,
            shards=self.shards,
            dropped=self.dropped,
            config=self._config,
            inputs=self._inputs,
            complete=complete,
        )


def shard_name(layout: Layout, number: int) -> str:
    """Returns the file name of a shard, such as `records-00000.parquet`."""
    return f"{layout.prefix}-{number:05d}.parquet"


def write_shard(path: files.Path, table: pa.Table, layout: Layout) -> None:
    """Writes one shard, whole or not at all.

    Raises:
        ShardError: the table lacks a column of the layout or has one of another type.
    """
    check_columns(table.schema, layout, where="table to write")
    table = table.select(layout.schema.names).cast(layout.schema)
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd", row_group_size=1024)
    files.write_atomically(path, content.getvalue())


def describe_shard(path: files.Path) -> dict[str, Any]:
    """Returns a shard's entry in the manifest: `file`, `rows`, `bytes`, `sha256`."""
    content = path.read_bytes()
    return {
        "file": path.name,
        "rows": pq.read_metadata(io.BytesIO(content)).num_rows,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def write_manifest(
    folder: files.Path,
    layout: Layout,
    *,
    shards: Sequence[Mapping[str, Any]],
    dropped: Mapping[str, int],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    complete: bool,
) -> None:
    """Replaces the manifest of a folder.

    Args:
        folder: that holds the shards.
        layout: kind of shards.
        shards: their entries, as `describe_shard` returns them.
        dropped: rows left out, by reason.
        config: settings that made the data.
        inputs: checksums of what was read, by name.
        complete: whether nothing is missing.
    """
    rows = sum(shard["rows"] for shard in shards)
    write_json_atomically(
        folder / MANIFEST_NAME,
        {
            "artefact": layout.artefact,
            "schema_version": layout.schema_version,
            "code_version": cotdistill_jax.__version__,
            "complete": complete,
            "config": dict(config),
            "inputs": dict(inputs),
            "counts": {
                "in": rows + sum(dropped.values()),
                "out": rows,
                "dropped": dict(sorted(dropped.items())),
            },
            "shards": list(shards),
        },
    )


def read_batches(
    folder: files.AnyPath,
    layout: Layout,
    *,
    columns: Sequence[str] | None = None,
    rows_per_batch: int = 256,
    verify: bool = True,
    allow_incomplete: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a shard folder as Arrow record batches, in order, holding one batch at a time.

    Args:
        folder: what a `ShardWriter` wrote.
        layout: kind of shards expected.
        columns: names to read; all by default.
        rows_per_batch: most rows in a batch; a batch never crosses a shard.
        verify: compare each shard with its checksum in the manifest first.
        allow_incomplete: also read a folder whose writer was interrupted.

    Raises:
        FileNotFoundError: no manifest, or a shard that the manifest lists is missing.
        ShardError: incomplete folder, damaged shard, missing column.
    """
    folder = files.as_path(folder)
    manifest = read_manifest(folder, layout)
    if not allow_incomplete:
        check_complete(folder, manifest)
    for shard in manifest["shards"]:
        yield from read_shard(
            folder, shard, layout, columns=columns, rows_per_batch=rows_per_batch, verify=verify
        )


def check_complete(folder: files.Path, manifest: Mapping[str, Any]) -> None:
    """Raises `ShardError` unless the manifest says that the folder is complete."""
    if not manifest["complete"]:
        raise ShardError(
            f"{manifest['artefact']}: {folder} is incomplete: its writer stopped after {manifest['counts']['out']} rows. Resume "
            "that run, or ask for incomplete data explicitly (allow_incomplete)."
        )


def read_shard(
    folder: files.Path,
    shard: Mapping[str, Any],
    layout: Layout,
    *,
    columns: Sequence[str] | None = None,
    rows_per_batch: int = 256,
    verify: bool = True,
    as_dictionaries: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of one shard as Arrow record batches.

    Args:
        folder: that holds the shard.
        shard: its entry in the manifest.
        layout: kind of shards expected.
        columns: names to read; all by default.
        rows_per_batch: most rows in a batch.
        verify: compare the shard with its checksum first.
        as_dictionaries: leave the layout's repetitive columns dictionary-encoded, which is twice as fast.

    Raises:
        FileNotFoundError: the shard is missing.
        ShardError: damaged shard, missing column.
    """
    path = folder / shard["file"]
    if not path.exists():
        raise FileNotFoundError(
            f"{layout.artefact}: shard {path} is listed in the manifest and missing. Restore it, or write the folder again."
        )
    _refuse_foreign(path, layout)
    if verify and (got := file_sha256(path)) != shard["sha256"]:
        raise ShardError(
            f"{layout.artefact}: shard {path} has checksum {got}, the manifest says {shard['sha256']}. The file changed "
            "after it was written; restore it, or write the folder again."
        )
    parquet = _open(path, layout)
    check_columns(parquet.schema_arrow, layout, where=str(path))
    if as_dictionaries:
        parquet = pq.ParquetFile(_source(path), read_dictionary=list(layout.repetitive))
    yield from parquet.iter_batches(batch_size=rows_per_batch, columns=columns)


def check_columns(schema: pa.Schema, layout: Layout, where: str) -> None:
    """Raises `ShardError` unless `schema` has every column of the layout with its type."""
    missing = [name for name in layout.schema.names if name not in schema.names]
    if missing:
        raise ShardError(
            f"{layout.artefact}: {where} lacks the columns {missing}; it has {schema.names}. Write it with this version's writer."
        )
    for field in layout.schema:
        got = schema.field(field.name).type
        if not _same_type(got, field.type):
            raise ShardError(
                f"{layout.artefact}: column {field.name} of {where} has type {got}, expected {field.type}. Write it with this "
                "version's writer."
            )


def _same_type(got: pa.DataType, expected: pa.DataType) -> bool:
    """Compares types up to the names of list items, which Parquet writers choose differently."""
    if pa.types.is_list(got) and pa.types.is_list(expected):
        return _same_type(got.value_type, expected.value_type)
    return got == expected


def _source(path: files.Path) -> pathlib.Path | io.BytesIO:
    """Returns what Parquet's reader takes: the path of a file of this machine, or the content of a bucket's."""
    return path if isinstance(path, pathlib.Path) else io.BytesIO(path.read_bytes())


def _refuse_foreign(path: files.Path, layout: Layout) -> None:
    try:
        files.refuse_foreign_content(path, layout.artefact, "a Parquet shard")
    except files.ForeignFileError as error:
        raise ShardError(str(error)) from error


def _open(path: files.Path, layout: Layout) -> pq.ParquetFile:
    _refuse_foreign(path, layout)
    try:
        return pq.ParquetFile(_source(path))
    except pa.ArrowInvalid as error:
        raise ShardError(
            f"{layout.artefact}: {path} is not a whole Parquet file ({error}). Delete it and resume the run that writes it."
        ) from error
