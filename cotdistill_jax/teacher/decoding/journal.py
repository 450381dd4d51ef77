"""What was answered since the last shard, one JSON line per request, on disk before anything else happens.

A line is an `Entry`: what a request added to the totals and the records it gave, or why its question failed. The first line
holds the totals up to the last shard, when the journal began anew. A line that an interruption cut off is not an entry: it is
passed over when reading and removed before the next line is written.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cotdistill_jax import files
from cotdistill_jax.files import lines
from cotdistill_jax.teacher import shards
from cotdistill_jax.teacher.records import LAYOUT, TeacherRecord, batch_to_records, records_to_table

JOURNAL_NAME = "journal.jsonl"


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a question has fewer samples than were asked for.

    Attributes:
        reason: short name under which it is counted.
        message: what the endpoint said.
    """

    reason: str
    message: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one request led to.

    Attributes:
        question_id: that was asked.
        counts: what it adds to the totals, such as `prompt_tokens`.
        records: samples it gave.
        failure: None for an answer.
    """

    question_id: str
    counts: Mapping[str, int]
    records: tuple[TeacherRecord, ...] = ()
    failure: Failure | None = None


@dataclasses.dataclass
class Content:
    """What a journal says.

    Attributes:
        totals: counts since the folder was begun.
        failures: by question id, of questions that were not answered since.
        records: samples since the last shard, in order.
    """

    totals: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: dict[str, Failure] = dataclasses.field(default_factory=dict)
    records: list[TeacherRecord] = dataclasses.field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Takes in one request."""
        self.totals.update(entry.counts)
        self.failures.pop(entry.question_id, None)
        if entry.failure is not None:
            self.failures[entry.question_id] = entry.failure
        self.records.extend(entry.records)


def read(folder: files.Path) -> Content:
    """Returns what the journal of a folder says; an empty one where there is no journal.

    Raises:
        shards.ShardError: a line that is not the journal's, other than a last line that was cut off.
    """
    path = folder / JOURNAL_NAME
    content = Content()
    for number, line in enumerate((lines.read(path) or b"").splitlines(keepends=True)):
        if not line.endswith(b"\n"):
            break
        try:
            if line.strip():
                _take(content, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise shards.ShardError(
                f"teacher decoding: line {number + 1} of {path} cannot be read ({type(error).__name__}: {error}). It was changed "
                "after it was written; restore it, or decode into another folder."
            ) from error
    return content


class Journal:
    """Writes the journal of a folder; `content` follows what is written."""

    def __init__(self, folder: files.Path) -> None:
        """Reads what is there, and removes a line that was cut off."""
        self._path = folder / JOURNAL_NAME
        self.content = read(folder)
        self._lines = files.LineFile(self._path, end_last_line=False)

    def append(self, entry: Entry) -> None:
        """Writes one line and returns when it is kept."""
        line = {
            "question_id": entry.question_id,
            "counts": dict(entry.counts),
            "records": records_to_table(entry.records).to_pylist(),
            "failure": entry.failure and dataclasses.asdict(entry.failure),
        }
        self._lines.append(_line(line))
        self.content.add(entry)

    def begin_anew(self) -> None:
        """Drops the records, which are in a shard now, and keeps totals and failures."""
        failures = {key: dataclasses.asdict(value) for key, value in self.content.failures.items()}
        line = _line({"totals": dict(self.content.totals), "failures": failures})
        self._lines.close()
        files.replace_lines(self._path, line)
        self._lines = files.LineFile(self._path)
        self.content.records.clear()

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _take(content: Content, value: Mapping[str, Any]) -> None:
    if "totals" in value:
        content.totals.update(value["totals"])
        content.failures.update({key: Failure(**f) for key, f in value["failures"].items()})
        return
    table = pa.Table.from_pylist(value["records"], schema=LAYOUT.schema)
    samples = [record for batch in table.to_batches() for record in batch_to_records(batch)]
    failure = Failure(**value["failure"]) if value["failure"] else None
    content.add(Entry(value["question_id"], value["counts"], tuple(samples), failure))
