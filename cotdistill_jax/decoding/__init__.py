"""Generation: batched, cached, greedy or sampled.

| file | holds |
|---|---|
| `choosers.py` | what token comes next: `most_likely`, `Sampler` |
| `step.py` | one token through the decoder: `prepare`d weights, float or 8 bits |
| `loop.py` | one padded batch, one compiled loop: `greedy`, `sample` |
| `continuous.py` | any number of prompts, finished rows replaced by waiting ones: `stream`, `generate` |
"""

from cotdistill_jax.decoding.choosers import Chooser, Sampler, most_likely
from cotdistill_jax.decoding.continuous import Answer, Completion, bucket_length, generate, stream
from cotdistill_jax.decoding.loop import EOS_ID, PAD_ID, Generation, greedy, sample
from cotdistill_jax.decoding.step import FLOAT, WEIGHT_KINDS, Weights, prepare

__all__ = [
    "EOS_ID",
    "FLOAT",
    "PAD_ID",
    "WEIGHT_KINDS",
    "Answer",
    "Chooser",
    "Completion",
    "Generation",
    "Sampler",
    "Weights",
    "bucket_length",
    "generate",
    "greedy",
    "most_likely",
    "prepare",
    "sample",
    "stream",
]
