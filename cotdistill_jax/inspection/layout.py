"""How examples lie in packed rows: segments, positions, and what is left over."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import seqio

from cotdistill_jax import features

_SIDES = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class Segment:
    """One example's part of a row: its number from 1, and the positions [start, start + length) it fills."""

    number: int
    start: int
    length: int


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a packed row: `encoder` or `decoder`."""

    segments: tuple[Segment, ...]
    size: int

    @property
    def waste(self) -> int:
        """Positions that hold padding."""
        return self.size - sum(segment.length for segment in self.segments)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Packed rows of a mixture.

    Attributes:
        rows: per row its sides, by name.
        waste: per side the share of positions that hold padding, over all rows.
        examples_per_row: mean number of examples in a row.
    """

    rows: tuple[Mapping[str, Side], ...]
    waste: Mapping[str, float]
    examples_per_row: float


def read_layout(
    name: str, split: str, lengths: Mapping[str, int], num_rows: int = 64, seed: int = 0
) -> Layout:
    """Returns how the first rows of a mixture are packed.

    Args:
        name: registered task or mixture.
        split: split to read.
        lengths: positions of `inputs` and `targets` in a row.
        num_rows: rows to read.
        seed: seed of mixing and of random preprocessing.
    """
    declared = seqio.get_mixture_or_task(name).output_features
    teacher = [feature for feature in declared if feature.startswith("teacher_")]
    dataset = seqio.get_dataset(
        name,
        task_feature_lengths={**lengths, **dict.fromkeys(teacher, lengths["targets"])},
        dataset_split=split,
        shuffle=True,
        num_epochs=None,
        feature_converter=features.DistillEncDecFeatureConverter(pack=True),
        seed=seed,
    )
    rows = [
        {side: _side(raw[f"{side}_segment_ids"], raw[f"{side}_positions"]) for side in _SIDES}
        for raw in dataset.take(num_rows).as_numpy_iterator()
    ]
    waste = {
        side: sum(row[side].waste for row in rows) / sum(row[side].size for row in rows)
        for side in _SIDES
    }
    per_row = float(np.mean([len(row["decoder"].segments) for row in rows]))
    return Layout(tuple(rows), waste, per_row)


def _side(segment_ids: np.ndarray, positions: np.ndarray) -> Side:
    """Returns the segments of a row; a segment begins where positions restart at 0."""
    starts = np.flatnonzero((positions == 0) & (segment_ids > 0))
    ends = [*starts[1:].tolist(), int((segment_ids > 0).sum())]
    segments = tuple(
        Segment(int(segment_ids[start]), int(start), int(end - start))
        for start, end in zip(starts, ends, strict=True)
    )
    return Side(segments, len(segment_ids))
