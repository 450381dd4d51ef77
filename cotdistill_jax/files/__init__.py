"""Files as they come from elsewhere and as we write them, on this machine or in a bucket: one room owns what a path is.

| file | holds |
|---|---|
| `paths.py` | what a user's path is: `as_path`, `local_path` |
| `buckets.py` | files in buckets, with the methods of `pathlib.Path`; their errors in words |
| `names.py`, `patterns.py` | `~`, and a name before it is a pattern |
| `content.py` | what a file really holds; text and JSON read the same way everywhere |
| `writing.py`, `lines.py` | files that are whole or not there, files that grow by lines |
| `locks.py` | one writer per folder |
| `vocabulary.py` | a SentencePiece model |
"""

from cotdistill_jax.files.buckets import (
    BucketError,
    BucketPath,
    SchemeError,
    explain,
    explain_foreign,
    is_url,
)
from cotdistill_jax.files.content import (
    ForeignFileError,
    foreign_content,
    read_head,
    read_json,
    read_json_lines,
    read_text,
    refuse_foreign_content,
    whole_characters,
)
from cotdistill_jax.files.locks import HeldError, Lock, LostError, hold
from cotdistill_jax.files.names import expand_home
from cotdistill_jax.files.paths import (
    AnyPath,
    Path,
    as_path,
    entries,
    is_remote,
    local_path,
    name_below,
    remove_tree,
)
from cotdistill_jax.files.patterns import is_name, matches, refuse_pattern
from cotdistill_jax.files.vocabulary import open_vocabulary
from cotdistill_jax.files.writing import (
    LineFile,
    file_sha256,
    replace_lines,
    write_atomically,
    write_json_atomically,
)

__all__ = [
    "AnyPath",
    "BucketError",
    "BucketPath",
    "ForeignFileError",
    "HeldError",
    "LineFile",
    "Lock",
    "LostError",
    "Path",
    "SchemeError",
    "as_path",
    "entries",
    "expand_home",
    "explain",
    "explain_foreign",
    "file_sha256",
    "foreign_content",
    "hold",
    "is_name",
    "is_remote",
    "is_url",
    "local_path",
    "matches",
    "name_below",
    "open_vocabulary",
    "read_head",
    "read_json",
    "read_json_lines",
    "read_text",
    "refuse_foreign_content",
    "refuse_pattern",
    "remove_tree",
    "replace_lines",
    "whole_characters",
    "write_atomically",
    "write_json_atomically",
]
