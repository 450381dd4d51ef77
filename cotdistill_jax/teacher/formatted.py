"""Formatted examples: input and target texts as somebody else already put them together, with candidates per student piece.

| column | Arrow type | meaning |
|---|---|---|
| row | int32 | place in the file that it was imported from |
| input | string | what the student reads, demonstrations included |
| target | string | what it is to write |
| gold | string | gold answer |
| piece_names | list<list<string>> | candidates of every piece of the target, without EOS; empty for answer-only formats |
| piece_probs | list<list<double>> | their probabilities in [0, 1] |

Each format has a folder of its own. Pieces are names, not ids: only who reads them knows a vocabulary.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cotdistill_jax import files
from cotdistill_jax.teacher import records, shards

LAYOUT = shards.Layout(
    artefact="formatted_examples",
    prefix="formatted",
    schema_version=1,
    schema=pa.schema(
        [
            pa.field("row", pa.int32(), nullable=False),
            pa.field("input", pa.string(), nullable=False),
            pa.field("target", pa.string(), nullable=False),
            pa.field("gold", pa.string(), nullable=False),
            pa.field("piece_names", pa.list_(pa.list_(pa.string())), nullable=False),
            pa.field("piece_probs", pa.list_(pa.list_(pa.float64())), nullable=False),
        ]
    ),
)
_EXAMPLES_PER_SHARD = 16_384


@dataclasses.dataclass(frozen=True)
class FormattedExample:
    """One example of one format.

    Attributes:
        row: place in the file that it was imported from.
        input: what the student reads.
        target: what it is to write.
        gold: gold answer.
        pieces: per piece of the target its {piece: probability in [0, 1]} candidates; empty for answer-only formats.
    """

    row: int
    input: str
    target: str
    gold: str
    pieces: tuple[Mapping[str, float], ...] = ()


def validate_example(example: FormattedExample) -> None:
    """Raises `records.RecordError` for an empty text or a number that is no probability; the message names the row."""
    where = f"formatted example {example.row}"
    if not example.input or not example.target:
        raise records.RecordError(f"{where}: its input or its target is empty. Drop it.")
    for place, row in enumerate(example.pieces):
        records.validate_row(tuple(row.items()), f"{where}, piece {place}")


def write_examples(
    folder: files.AnyPath,
    examples: Iterable[FormattedExample],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    resume: bool = False,
) -> int:
    """Writes examples to a folder of shards, holding one shard in memory, and returns how many there are.

    Args:
        folder: output folder.
        examples: the same ones in the same order when a run is resumed.
        config: settings that made them, `format` among them.
        inputs: checksums of what was read, by file name.
        resume: keep the whole shards of an interrupted run.

    Raises:
        records.RecordError: an invalid example.
        FileExistsError, shards.ShardError: as `shards.ShardWriter` raises them.
    """
    with shards.ShardWriter(folder, LAYOUT, config=config, inputs=inputs, resume=resume) as writer:
        written = sum(shard["rows"] for shard in writer.shards)
        rest = itertools.islice(examples, written, None)
        for batch in iter(lambda: list(itertools.islice(rest, _EXAMPLES_PER_SHARD)), []):
            for example in batch:
                validate_example(example)
            writer.write(_to_table(batch))
            written += len(batch)
    return written


def read_examples(folder: files.AnyPath, *, verify: bool = True) -> Iterator[FormattedExample]:
    """Yields the examples of a folder in order.

    Raises:
        FileNotFoundError: no manifest or a missing shard.
        shards.ShardError: incomplete or damaged folder, missing column.
        records.RecordError: an invalid example.
    """
    for batch in shards.read_batches(folder, LAYOUT, verify=verify):
        for row in batch.to_pylist():
            names, probs = row.pop("piece_names"), row.pop("piece_probs")
            pieces = tuple(
                dict(zip(*piece, strict=True)) for piece in zip(names, probs, strict=True)
            )
            example = FormattedExample(**row, pieces=pieces)
            validate_example(example)
            yield example


def _to_table(examples: Sequence[FormattedExample]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        name: [getattr(example, name) for example in examples]
        for name in ("row", "input", "target", "gold")
    }
    columns["piece_names"] = [[list(row) for row in example.pieces] for example in examples]
    columns["piece_probs"] = [
        [list(row.values()) for row in example.pieces] for example in examples
    ]
    return pa.table(columns, schema=LAYOUT.schema)
