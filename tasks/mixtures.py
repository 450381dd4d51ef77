"""Mixtures of the four formats, the same for every source.

`ALL_RATES` and `ARITH_RATES` are ours. `SEED_RATES` are the weights that the paper's batch sizes gave the formats (`seed_batches`): micro-batches
counted alike whatever they held, so a format's weight followed its batch size. As rates they say how often a format's examples come.
"""

from cotdistill_jax.seqio_tasks import seed_batches
from tasks import arith, gsm8k_gold, gsm8k_teacher, seed

ALL_RATES = {
    "zero_shot_cot": 0.55,
    "in_context_cot": 0.25,
    "zero_shot_answer_only": 0.1,
    "in_context_answer_only": 0.1,
}
# In-context inputs of arith are nine times as long as zero-shot ones; two CPU cores can't afford a quarter of them.
ARITH_RATES = {
    "zero_shot_cot": 0.75,
    "in_context_cot": 0.1,
    "zero_shot_answer_only": 0.1,
    "in_context_answer_only": 0.05,
}
SEED_RATES = {
    size: seed_batches.epoch(sizes).weights for size, sizes in seed_batches.BATCH_SIZES.items()
}

for _family in (arith.FAMILY, gsm8k_gold.FAMILY, gsm8k_teacher.FAMILY, seed.FAMILY):
    _all_rates = ARITH_RATES if _family is arith.FAMILY else ALL_RATES
    _family.add_mixture("all", _all_rates)
    for _kind in ("in_context", "zero_shot"):
        _family.add_mixture(
            _kind, {name: rate for name, rate in _all_rates.items() if name.startswith(_kind)}
        )
    for _size, _rates in SEED_RATES.items():
        _family.add_mixture(f"seed_{_size}", _rates)
        for _kind in ("in_context", "zero_shot"):
            _family.add_mixture(
                f"seed_{_size}_{_kind}",
                {name: rate for name, rate in _rates.items() if name.startswith(_kind)},
            )
    if _family.has_teacher:  # other corpora have one sample a question
        _family.add_by_question_tasks()
        for _size, _rates in SEED_RATES.items():
            _sizes = seed_batches.BATCH_SIZES[_size]
            _family.add_same_question_mixture(
                f"seed_{_size}", _rates, {form: _sizes.effective(form) for form in _rates}
            )
