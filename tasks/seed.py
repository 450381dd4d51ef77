"""Tasks of `seed`: the paper's own examples, already formatted, aligned to T5's vocabulary by its rule."""

import functools

from cotdistill_jax import benchmarks, seqio_tasks
from cotdistill_jax.corpus import seed

FAMILY = seqio_tasks.FormattedTaskFamily(
    source="seed",
    vocabulary=seqio_tasks.vocabularies.t5(),
    has_teacher=True,
    pool=functools.cache(functools.partial(benchmarks.load, "gsm8k", "train")),
    top_k=seed.TOP_K,
)
FAMILY.add_tasks()
FAMILY.add_negative_task()
