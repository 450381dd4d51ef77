"""Importing this package registers every task and mixture; `seqio.TaskRegistry.names()` lists them.

Names: tasks `{source}_{format}_v1`, mixtures `{source}_{all,in_context,zero_shot,seed_*}_v1`, and the
tasks `{arith,gsm8k}_verifier_v2`; for evaluation `{benchmark}_{prompt}_eval_v1` (`tasks.evaluation`). Corpora of one's own are found in `$COTDISTILL_TFDS_DIR` (`tasks.own`). Nothing is read before a dataset is asked for.
"""

from tasks import arith, evaluation, gsm8k_gold, gsm8k_teacher, mixtures, own, seed, verifier

__all__ = [
    "arith",
    "evaluation",
    "gsm8k_gold",
    "gsm8k_teacher",
    "mixtures",
    "own",
    "seed",
    "verifier",
]
