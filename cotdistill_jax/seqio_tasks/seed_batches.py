"""How the seed batched its four formats, and the weight that gave each of them in training.

The examples of a format are cut into effective batches of accumulation steps x batch size; what is left over is dropped. Each effective
batch is then split into micro-batches of the batch size, and every micro-batch counts alike, whatever it holds. So the weight of a
format is its share of the micro-batches.

Source: FranxYao/FlanT5-CoT-Specialization, src/data_utils.py and src/conf/batch_size at commit a8ffd51.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from cotdistill_jax import formats

NUM_EXAMPLES: Mapping[str, int] = MappingProxyType(
    {
        "in_context_cot": 207_135,
        "zero_shot_cot": 207_135,
        "in_context_answer_only": 7_350,
        "zero_shot_answer_only": 7_350,
    }
)
"""Examples of the seed by format. How many questions have an answer-only example was not published; 7,350 is our
inference: with it the published weights come out to their last decimal. The micro-batches of the 3B sizes need no such choice."""


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Micro-batch sizes by format, and the micro-batches that make an optimiser step."""

    in_context_cot: int
    in_context_answer_only: int
    zero_shot_cot: int
    zero_shot_answer_only: int
    accumulation_steps: int

    def effective(self, form: str) -> int:
        """Returns the examples of an optimiser step of one format, such as 60 for `in_context_cot` of the 3B model."""
        size: int = getattr(self, formats.get_format(form).name)
        return self.accumulation_steps * size


BATCH_SIZES: Mapping[str, BatchSizes] = MappingProxyType(
    {
        "250m": BatchSizes(25, 35, 40, 60, 3),
        "780m": BatchSizes(8, 12, 18, 30, 20),
        "3b": BatchSizes(2, 10, 8, 20, 30),
        "11b": BatchSizes(2, 10, 8, 20, 20),
        "11b_8cards": BatchSizes(10, 20, 20, 30, 20),
    }
)
"""The seed's sizes by model. Its published commands run `11b_8cards` with 6 and with 20 accumulation steps (experiments_11b.md); 20 here."""

POSITIVE_PER_NEGATIVE = 5
"""Optimizer steps on right rationales for one on wrong ones, in the original's contrastive training."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch of the seed.

    Attributes:
        micro_batches: by format.
        examples: in them, by format.
        dropped: examples left over, by format.
        optimizer_steps: over all formats.
    """

    micro_batches: Mapping[str, int]
    examples: Mapping[str, int]
    dropped: Mapping[str, int]
    optimizer_steps: int

    @property
    def total_micro_batches(self) -> int:
        """Micro-batches over all formats."""
        return sum(self.micro_batches.values())

    @property
    def weights(self) -> dict[str, float]:
        """The formats' shares of the gradient, in [0, 1], adding up to 1."""
        return {
            name: number / self.total_micro_batches for name, number in self.micro_batches.items()
        }


def epoch(sizes: BatchSizes, num_examples: Mapping[str, int] = NUM_EXAMPLES) -> Epoch:
    """Returns one epoch of the seed with the given sizes.

    Example: `epoch(BATCH_SIZES["3b"])` has 130,530 micro-batches in 4,351 optimiser steps.

    Args:
        sizes: micro-batch sizes and accumulation steps.
        num_examples: examples by format; a format that is not in it is left out.

    Raises:
        KeyError: unknown format.
        ValueError: not one whole effective batch.
    """
    micro_batches, used, dropped = {}, {}, {}
    for name, examples in num_examples.items():
        effective = sizes.effective(name)
        micro_batches[name] = examples // effective * sizes.accumulation_steps
        dropped[name] = examples % effective
        used[name] = examples - dropped[name]
    total = sum(micro_batches.values())
    if total == 0:
        raise ValueError(
            f"tasks: {dict(num_examples)} examples make no whole effective batch of {sizes}. Lower the sizes."
        )
    return Epoch(micro_batches, used, dropped, total // sizes.accumulation_steps)
