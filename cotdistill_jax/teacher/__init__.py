"""What the teacher said: the record type and its Parquet folders.

`teacher.synthetic` (embedded teacher of the `arith` source), `teacher.decoding` (endpoints) and the importers are modules of
their own, imported by name.
"""

from cotdistill_jax.teacher.records import (
    RecordError,
    RecordWriter,
    TeacherRecord,
    read_records,
    validate_record,
    write_records,
)
from cotdistill_jax.teacher.shards import ShardError

__all__ = [
    "RecordError",
    "RecordWriter",
    "ShardError",
    "TeacherRecord",
    "read_records",
    "validate_record",
    "write_records",
]
