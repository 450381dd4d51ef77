"""Teacher records: what a teacher said for one question, once, with the candidates it weighed at every token.

| column | Arrow type | meaning |
|---|---|---|
| question_id | string | as in `benchmarks.Question.id` |
| sample_id | int32 | number of the sample among those of its question |
| question | string | question as asked, without prompt |
| gold | string | gold answer |
| text | string | the teacher's answer |
| tokens | list<string> | the tokens the teacher sampled, in its own tokenisation; empty for a teacher that gave text only |
| top_k_tokens | list<list<string>> | candidates of every step, in the teacher's order |
| top_k_probs | list<list<double>> | their probabilities in [0, 1] |
| label | bool, nullable | whether the answer is right; null before labelling |
| teacher | string | name of the teacher |
| decode_settings | string | JSON object: temperature, prompt mode, ... |

`top_k` rows should hold the sampled token, too; a token listed twice counts once, at its first place. `tokens` may begin and end
with tokens that are not part of `text` (the seed's transcripts begin with " step", "\\n").
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from cotdistill_jax import files
from cotdistill_jax.teacher import shards

LAYOUT = shards.Layout(
    artefact="teacher_records",
    prefix="records",
    schema_version=1,
    repetitive=("tokens.list.element", "top_k_tokens.list.element.list.element"),
    schema=pa.schema(
        [
            pa.field("question_id", pa.string(), nullable=False),
            pa.field("sample_id", pa.int32(), nullable=False),
            pa.field("question", pa.string(), nullable=False),
            pa.field("gold", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("tokens", pa.list_(pa.string()), nullable=False),
            pa.field("top_k_tokens", pa.list_(pa.list_(pa.string())), nullable=False),
            pa.field("top_k_probs", pa.list_(pa.list_(pa.float64())), nullable=False),
            pa.field("label", pa.bool_()),
            pa.field("teacher", pa.string(), nullable=False),
            pa.field("decode_settings", pa.string(), nullable=False),
        ]
    ),
)
# Six probabilities rounded to four decimals can add up to 1.0003; more than this is not rounding.
MAX_ROW_SUM = 1.001


class RecordError(ValueError):
    """A teacher record that breaks the rules of this module; the message names record, problem and fix."""


@dataclasses.dataclass(frozen=True)
class TeacherRecord:
    """One sample of a teacher.

    Attributes:
        question_id: id of the question, as in `benchmarks.Question.id`.
        sample_id: number of the sample among those of its question.
        question: question as asked, without prompt.
        gold: gold answer.
        text: the teacher's answer.
        tokens: sampled tokens; empty for a teacher that gave text only.
        top_k: per token its (token, probability in [0, 1]) candidates.
        label: whether the answer is right; None before labelling.
        teacher: name of the teacher.
        decode_settings: JSON-able mapping: temperature, prompt mode, ...

    Example:
        >>> record = TeacherRecord(
        ...     question_id="q0", sample_id=0, question="1 + 1?", gold="2", text="It is 2", tokens=("It", " is", " 2"),
        ...     top_k=((("It", 0.9), ("The", 0.1)), ((" is", 1.0),), ((" 2", 0.75), (" 3", 0.25))),
        ...     label=True, teacher="example", decode_settings={"temperature": 0.5})
        >>> record.key
        ('q0', 0)
    """

    question_id: str
    sample_id: int
    question: str
    gold: str
    text: str
    tokens: tuple[str, ...]
    top_k: tuple[tuple[tuple[str, float], ...], ...]
    label: bool | None
    teacher: str
    decode_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        """What must be unique among all records: (question_id, sample_id)."""
        return self.question_id, self.sample_id


def validate_record(record: TeacherRecord) -> None:
    """Raises `RecordError` when the record has no id, rows that do not match its tokens, or numbers that are no probabilities."""
    where = f"teacher record {record.key}"
    if not record.question_id or record.sample_id < 0:
        raise RecordError(
            f"{where}: question_id must not be empty and sample_id must be 0 or more."
        )
    if len(record.tokens) != len(record.top_k):
        raise RecordError(
            f"{where}: {len(record.tokens)} tokens but {len(record.top_k)} rows of candidates; expected one row per token. "
            "Pass an empty row where the teacher gave no candidates."
        )
    for step, row in enumerate(record.top_k):
        validate_row(row, f"{where}, step {step} ({record.tokens[step]!r})")


def validate_row(row: Sequence[tuple[str, float]], where: str) -> None:
    """Raises `RecordError`, beginning with `where`, for (candidate, probability) pairs that are no distribution."""
    if all(prob is not None and 0.0 <= prob <= 1.0 for _, prob in row):
        if len(row) > 1 and sum(dict(reversed(row)).values()) > MAX_ROW_SUM:
            raise RecordError(
                f"{where}: the probabilities {row} of distinct candidates add up to more than 1. Check that they are "
                "probabilities of one step."
            )
        return
    probabilities = [probability for _, probability in row]
    if all(prob is not None and prob <= 0.0 for prob in probabilities):
        raise RecordError(
            f"{where}: {probabilities} look like log-probabilities where probabilities are expected. Take math.exp of them first."
        )
    raise RecordError(
        f"{where}: got the probabilities {probabilities}, expected numbers from 0 to 1. Repair or drop the record where it is made."
    )


class RecordWriter:
    """Writes validated teacher records as shards; use as a context manager.

    `keys` holds the (question_id, sample_id) of everything written so far, including what a resumed run found.
    """

    def __init__(
        self,
        folder: files.AnyPath,
        *,
        config: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        records_per_shard: int = 4096,
        resume: bool = False,
    ) -> None:
        """Opens the folder; see `shards.ShardWriter` for the arguments and errors.

        Args:
            folder: output folder.
            config: settings that made the records, written to the manifest.
            inputs: checksums of what was read, by file name.
            records_per_shard: records held in memory before a shard is written.
            resume: continue what an interrupted run left.
        """
        self._shards = shards.ShardWriter(
            folder, LAYOUT, config=config, inputs=inputs, resume=resume
        )
        self._records_per_shard = records_per_shard
        self._pending: list[TeacherRecord] = []
        self.keys: set[tuple[str, int]] = set()
        if resume:
            self.keys.update(_keys(folder))

    def write(self, record: TeacherRecord) -> None:
        """Adds one record.

        Raises:
            RecordError: the record is invalid, or its (question_id, sample_id) was written before.
        """
        validate_record(record)
        if record.key in self.keys:
            raise RecordError(
                f"teacher record {record.key}: there is already a record with this (question_id, sample_id). Number the samples "
                "of a question 0, 1, 2, ... and write each once."
            )
        self.keys.add(record.key)
        self._pending.append(record)
        if len(self._pending) >= self._records_per_shard:
            self.flush()

    def count_dropped(self, reason: str, number: int = 1) -> None:
        """Counts records that the caller left out, by reason, in the manifest."""
        self._shards.dropped[reason] += number

    def flush(self) -> None:
        """Writes the pending records as a shard now; what was flushed survives an interruption."""
        if self._pending:
            self._shards.write(records_to_table(self._pending))
            self._pending = []

    def __enter__(self) -> Self:
        """Returns the writer."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Writes what is pending and closes, unless an exception is under way."""
        if exception[0] is None:
            self.flush()
        self._shards.__exit__(*exception)


def write_records(
    folder: files.AnyPath,
    records: Iterable[TeacherRecord],
    *,
    config: Mapping[str, Any] | None = None,
) -> int:
    """Writes all records to a new folder and returns how many there were."""
    with RecordWriter(folder, config=config) as writer:
        for record in records:
            writer.write(record)
        return len(writer.keys)


def read_records(
    folder: files.AnyPath, *, verify: bool = True, allow_incomplete: bool = False
) -> Iterator[TeacherRecord]:
    """Yields the records of a folder in order, holding a few hundred in memory.

    Args:
        folder: what a `RecordWriter` wrote.
        verify: compare every shard with its checksum.
        allow_incomplete: also read what an interrupted run left.

    Raises:
        FileNotFoundError: no manifest or a missing shard.
        shards.ShardError: incomplete or damaged folder, missing column.
        RecordError: an invalid or a repeated record.
    """
    seen: set[tuple[str, int]] = set()
    for batch in shards.read_batches(
        folder, LAYOUT, verify=verify, allow_incomplete=allow_incomplete
    ):
        for record in batch_to_records(batch):
            validate_record(record)
            if record.key in seen:
                raise RecordError(
                    f"teacher record {record.key}: occurs twice in {folder}. Remove one of the shards that hold it."
                )
            seen.add(record.key)
            yield record


def records_to_table(records: Sequence[TeacherRecord]) -> pa.Table:
    """Returns the records as an Arrow table with the columns of this module."""
    columns = {
        "question_id": [record.question_id for record in records],
        "sample_id": [record.sample_id for record in records],
        "question": [record.question for record in records],
        "gold": [record.gold for record in records],
        "text": [record.text for record in records],
        "tokens": [record.tokens for record in records],
        "top_k_tokens": [
            [[token for token, _ in row] for row in record.top_k] for record in records
        ],
        "top_k_probs": [
            [[probability for _, probability in row] for row in record.top_k] for record in records
        ],
        "label": [record.label for record in records],
        "teacher": [record.teacher for record in records],
        "decode_settings": [
            json.dumps(dict(record.decode_settings), sort_keys=True) for record in records
        ],
    }
    return pa.table(columns, schema=LAYOUT.schema)


def validate_batch(batch: pa.RecordBatch) -> None:
    """Raises what `validate_record` raises for the first bad row of a batch; a good batch is checked as arrays."""
    tokens, names, probs = (
        batch.column(name) for name in ("tokens", "top_k_tokens", "top_k_probs")
    )
    values = probs.flatten().flatten().to_numpy(zero_copy_only=False)
    fits = (
        pc.list_value_length(tokens).equals(pc.list_value_length(names))
        and pc.list_value_length(names).equals(pc.list_value_length(probs))
        and pc.list_value_length(names.flatten()).equals(pc.list_value_length(probs.flatten()))
    )
    if not (fits and ((values >= 0.0) & (values <= 1.0)).all()):
        for record in batch_to_records(batch):
            validate_record(record)


def batch_to_records(batch: pa.RecordBatch) -> Iterator[TeacherRecord]:
    """Yields the rows of an Arrow record batch as teacher records; raises `RecordError` where candidates lack probabilities."""
    for row in batch.to_pylist():
        row["tokens"] = tuple(row["tokens"])
        names, probs = row.pop("top_k_tokens"), row.pop("top_k_probs")
        if list(map(len, names)) != list(map(len, probs)):
            raise RecordError(
                f"teacher record {(row['question_id'], row['sample_id'])}: top_k_tokens and top_k_probs differ in shape. Write one "
                "probability per candidate."
            )
        row["top_k"] = tuple(
            tuple(zip(*step, strict=True)) for step in zip(names, probs, strict=True)
        )
        row["decode_settings"] = json.loads(row["decode_settings"])
        yield TeacherRecord(**row)


def _keys(folder: files.AnyPath) -> Iterator[tuple[str, int]]:
    columns = ["question_id", "sample_id"]
    for batch in shards.read_batches(folder, LAYOUT, columns=columns, allow_incomplete=True):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
