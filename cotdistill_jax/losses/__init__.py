"""Losses per target token, from logits or without ever holding all logits.

| file | holds |
|---|---|
| `token_losses.py` | `sample_matching`, `distribution_matching`, `unlikelihood`: logits -> token losses |
| `divergences.py` | `DIVERGENCES`: forward KL, reverse KL, JSD, the seed's KL |
| `tail_rules.py` | `TAIL_RULES`: what to do with the mass outside the teacher's top k |
| `chunked.py` | `chunked_sum`: the weighted sum of either loss, a few positions at a time |
"""

from cotdistill_jax.losses.chunked import chunked_sum
from cotdistill_jax.losses.divergences import DIVERGENCES, Divergence
from cotdistill_jax.losses.tail_rules import TAIL_RULES
from cotdistill_jax.losses.token_losses import (
    LossFn,
    Parts,
    distribution_matching,
    sample_matching,
    unlikelihood,
)

__all__ = [
    "DIVERGENCES",
    "TAIL_RULES",
    "Divergence",
    "LossFn",
    "Parts",
    "chunked_sum",
    "distribution_matching",
    "sample_matching",
    "unlikelihood",
]
