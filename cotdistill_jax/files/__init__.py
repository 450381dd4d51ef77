"""Files as they come from elsewhere: what they really hold, and text and JSON read the same way everywhere."""

from cotdistill_jax.files.content import (
    ForeignFileError,
    foreign_content,
    read_json,
    read_json_lines,
    read_text,
    refuse_foreign_content,
)

__all__ = [
    "ForeignFileError",
    "foreign_content",
    "read_json",
    "read_json_lines",
    "read_text",
    "refuse_foreign_content",
]
