"""Task features, and their way into the arrays a training step reads.

| file | holds |
|---|---|
| `declarations.py` | `output_features`, `text_features`: which features a task has |
| `teacher.py` | `append_teacher_eos`, `zero_teacher`, `check_teacher`: preprocessors |
| `lengths.py` | `guard_lengths`, `require_lengths`, `count_lengths`: nothing is ever trimmed |
| `packing.py` | `pack`: several examples in one row, by first fit |
| `converter.py` | `DistillEncDecFeatureConverter`: task features -> model features |
| `cache.py` | `write_cache`: SeqIO's offline cache without Apache Beam |
"""

from cotdistill_jax.features.cache import write_cache
from cotdistill_jax.features.converter import DistillEncDecFeatureConverter
from cotdistill_jax.features.declarations import (
    NEGATIVE,
    WEIGHTS,
    TeacherFeature,
    output_features,
    text_features,
)
from cotdistill_jax.features.lengths import (
    LengthReport,
    LengthSummary,
    count_lengths,
    guard_lengths,
    require_lengths,
)
from cotdistill_jax.features.packing import pack
from cotdistill_jax.features.teacher import append_teacher_eos, check_teacher, zero_teacher

__all__ = [
    "NEGATIVE",
    "WEIGHTS",
    "DistillEncDecFeatureConverter",
    "LengthReport",
    "LengthSummary",
    "TeacherFeature",
    "append_teacher_eos",
    "check_teacher",
    "count_lengths",
    "guard_lengths",
    "output_features",
    "pack",
    "require_lengths",
    "text_features",
    "write_cache",
    "zero_teacher",
]
