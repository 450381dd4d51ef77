"""Files as they come from elsewhere: what they really hold, and text and JSON read the same way everywhere."""

from cotdistill_jax.files.content import (
    ForeignFileError,
    foreign_content,
    read_json,
    read_json_lines,
    read_text,
    refuse_foreign_content,
    whole_characters,
)
from cotdistill_jax.files.names import expand_home, is_name, matches, refuse_pattern
from cotdistill_jax.files.vocabulary import open_vocabulary

__all__ = [
    "ForeignFileError",
    "expand_home",
    "foreign_content",
    "is_name",
    "matches",
    "open_vocabulary",
    "read_json",
    "read_json_lines",
    "read_text",
    "refuse_foreign_content",
    "refuse_pattern",
    "whole_characters",
]
