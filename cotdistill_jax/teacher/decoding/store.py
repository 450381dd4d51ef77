"""The output folder of a decoding: shards of teacher records, the journal of what is not in a shard yet, a report.

| file | holds |
|---|---|
| `records-*.parquet`, `manifest.json` | the records, see `teacher.shards` |
| `journal.jsonl` | see `teacher.decoding.journal` |
| `decode_report.json` | endpoint, requests, tokens, spend, failures with their messages |
| `decode.lock` | held while a process writes |

A record goes to the journal first and to a shard later, so that it is on disk from the moment on that it is there; the journal begins
anew when a shard is whole. An interruption between the two leaves records in both, and they are taken once.
"""

import collections
import contextlib
from collections.abc import Mapping
from typing import Any

from cotdistill_jax import files
from cotdistill_jax.files import write_json_atomically
from cotdistill_jax.teacher import records, shards
from cotdistill_jax.teacher.decoding import journal
from cotdistill_jax.teacher.decoding.answers import Usage

REPORT_NAME = "decode_report.json"
_LOCK_NAME = "decode.lock"
_RECORDS_PER_SHARD = 1024


class FolderInUseError(ValueError):
    """Another process decodes into the same folder."""


def usage_of(totals: Mapping[str, int]) -> Usage:
    """Returns the tokens among some totals."""
    return Usage(totals.get("prompt_tokens", 0), totals.get("completion_tokens", 0))


class Finished:
    """What a folder holds so far; reading it changes nothing.

    Attributes:
        totals: counts since the folder was begun.
        failures: by question id.
        complete: whether an earlier run marked the folder complete.
    """

    def __init__(self, folder: files.AnyPath) -> None:
        """Reads shards and journal.

        Raises:
            shards.ShardError: a folder of another kind, or a damaged shard or journal.
        """
        path = files.as_path(folder)
        content = journal.read(path)
        self.totals, self.failures = content.totals, content.failures
        self._questions = {record.question_id: record.question for record in content.records}
        self.complete = False
        keys = {record.key for record in content.records}
        if (path / shards.MANIFEST_NAME).exists():
            self.complete = shards.read_manifest(path, records.LAYOUT)["complete"]
            columns = ["question_id", "sample_id", "question"]
            for batch in shards.read_batches(
                path, records.LAYOUT, columns=columns, verify=False, allow_incomplete=True
            ):
                ids, numbers, texts = (batch.column(name).to_pylist() for name in columns)
                keys.update(zip(ids, numbers, strict=True))
                self._questions.update(zip(ids, texts, strict=True))
        self._num_samples = collections.Counter(question_id for question_id, _ in keys)

    def num_samples(self, question_id: str, question: str) -> int:
        """Returns how many samples of a question there are.

        Raises:
            ValueError: the folder has another question with this id.
        """
        known = self._questions.get(question_id, question)
        if known != question:
            raise ValueError(
                f"teacher decoding: question {question_id} is {question[:80]!r} here and {known[:80]!r} in the output folder. Decode "
                "other questions into another folder."
            )
        return self._num_samples[question_id]


class Store:
    """Writes samples and failures; use as a context manager.

    Leaving it writes what is pending as a shard; `finish` marks the folder complete.
    """

    def __init__(
        self,
        folder: files.AnyPath,
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        records_per_shard: int = _RECORDS_PER_SHARD,
    ) -> None:
        """Opens a folder, new or begun.

        Args:
            folder: output folder.
            config: how answers are drawn; a folder has one.
            inputs: checksums of what is asked.
            records_per_shard: records in the journal before it becomes a shard.

        Raises:
            FolderInUseError: another process writes here.
            shards.ShardError: the folder was begun with another config, or is damaged.
        """
        self.folder = files.as_path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._opened = contextlib.ExitStack()
        try:
            self._opened.enter_context(files.hold(self.folder / _LOCK_NAME))
        except files.HeldError as error:
            raise FolderInUseError(
                f"teacher decoding: another process decodes into {self.folder}: {error.owner}. Wait for it, or use another folder."
            ) from error
        self._records_per_shard = records_per_shard
        self._writer = records.RecordWriter(
            self.folder, config=config, inputs=inputs, records_per_shard=1 << 30, resume=True
        )
        self._journal = journal.Journal(self.folder)
        for record in self._journal.content.records:
            if record.key not in self._writer.keys:
                self._writer.write(record)
        self._num_samples = collections.Counter(key[0] for key in self._writer.keys)

    @property
    def totals(self) -> collections.Counter[str]:
        """Counts since the folder was begun: `requests`, `prompt_tokens`, `completion_tokens`, ..."""
        return self._journal.content.totals

    @property
    def failures(self) -> Mapping[str, journal.Failure]:
        """Failures by question id, of questions that were not answered since."""
        return self._journal.content.failures

    def num_samples(self, question_id: str) -> int:
        """Returns how many samples of a question there are."""
        return self._num_samples[question_id]

    def add(self, entry: journal.Entry) -> None:
        """Keeps what a request led to; it is on disk when this returns.

        Raises:
            records.RecordError: an invalid record; nothing of the entry is kept.
        """
        for record in entry.records:
            records.validate_record(record)
        self._journal.append(entry)
        for record in entry.records:
            self._writer.write(record)
        self._num_samples[entry.question_id] += len(entry.records)
        if len(self._journal.content.records) >= self._records_per_shard:
            self._flush()

    def finish(self, dropped: Mapping[str, int]) -> None:
        """Marks the folder complete, with the samples that it lacks by reason."""
        self._flush()
        for reason, number in dropped.items():
            self._writer.count_dropped(reason, number)
        self._writer.__exit__(None, None, None)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replaces the report."""
        write_json_atomically(self.folder / REPORT_NAME, report)

    def __enter__(self) -> "Store":
        """Returns the store."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Writes what is pending and lets go of the folder."""
        try:
            self._flush()
        finally:
            self._journal.close()
            self._opened.close()

    def _flush(self) -> None:
        self._writer.flush()
        self._journal.begin_anew()
