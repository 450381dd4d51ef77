"""Importing this package registers every task and mixture; `seqio.TaskRegistry.names()` lists them.

Names: tasks `{source}_{format}_v1`, mixtures `{source}_{all,in_context,zero_shot,seed_*}_v1`, and the
tasks `{arith,gsm8k}_verifier_v2`. Nothing is read before a dataset is asked for.
"""

from tasks import arith, gsm8k_gold, gsm8k_teacher, mixtures, seed, verifier

__all__ = ["arith", "gsm8k_gold", "gsm8k_teacher", "mixtures", "seed", "verifier"]
