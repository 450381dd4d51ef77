"""SeqIO tasks over the corpora: what `tasks/` registers.

| file | holds |
|---|---|
| `registration.py` | `TaskFamily`, `FormattedTaskFamily`: a corpus in four formats, and mixtures of them |
| `seed_batches.py` | how the paper batched its formats, and their weights |
| `micro_batches.py` | `MicroBatchMixture`: a mixture whose formats weigh as in the paper's micro-batches |
| `blocks.py` | `in_blocks`: a mixture that draws a format for many examples at once |
| `sources.py` | `CorpusSource`, `ByQuestionSource`: the TFDS dataset on disk, with errors that say what to do |
| `vocabularies.py` | `arith`, `t5`: the students' vocabularies as SeqIO objects |
| `preprocessors.py` | rows of a corpus -> `inputs`, `targets`, teacher rows |
| `demonstrations.py` | `in_context_inputs`: the four solved questions of an in-context input |
| `metrics.py` | `accuracy`: per cent right and per cent without an answer |
"""

from cotdistill_jax.seqio_tasks import vocabularies
from cotdistill_jax.seqio_tasks.demonstrations import in_context_inputs
from cotdistill_jax.seqio_tasks.metrics import accuracy, bbh_accuracy, gold_or_prediction
from cotdistill_jax.seqio_tasks.micro_batches import MicroBatchMixture, shares_of_loss
from cotdistill_jax.seqio_tasks.registration import FormattedTaskFamily, TaskFamily
from cotdistill_jax.seqio_tasks.sources import CorpusSource

__all__ = [
    "CorpusSource",
    "FormattedTaskFamily",
    "MicroBatchMixture",
    "TaskFamily",
    "accuracy",
    "bbh_accuracy",
    "gold_or_prediction",
    "in_context_inputs",
    "shares_of_loss",
    "vocabularies",
]
