"""Mixtures of the four formats, the same for every source.

A rate says how often examples of a format come. In the mixtures `v1` every target token then weighs the same, so that formats of long
targets weigh more. In `{source}_seed_{size}_v2` a format's examples come as often as in the original and its share of the loss is what the
original's micro-batches gave it (`seqio_tasks.micro_batches`). `{source}_seed_{size}_v1` takes those shares for rates of examples: an older
reading of ours, under which answer-only formats weigh a fourteenth of what they should (3B).
"""

from cotdistill_jax import formats
from cotdistill_jax.seqio_tasks import seed_batches
from tasks import arith, gsm8k_gold, gsm8k_teacher, own, seed

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

for _family in (
    arith.FAMILY,
    gsm8k_gold.FAMILY,
    gsm8k_teacher.FAMILY,
    seed.FAMILY,
    *own.FAMILIES,
):
    if _family.has_teacher:  # other corpora have one sample a question
        _family.add_by_question_tasks()
    _all_rates = ARITH_RATES if _family is arith.FAMILY else ALL_RATES
    _family.add_mixture("all", _all_rates)
    for _kind in ("in_context", "zero_shot"):
        _family.add_mixture(
            _kind, {name: rate for name, rate in _all_rates.items() if name.startswith(_kind)}
        )
    for _size, _sizes in seed_batches.BATCH_SIZES.items():
        _name, _rates = f"seed_{_size}", seed_batches.epoch(_sizes).weights
        _family.add_mixture(_name, _rates)
        _family.add_micro_batch_mixture(_name, _sizes, formats.FORMATS, same_question=False)
        for _kind in ("in_context", "zero_shot"):
            _forms = [name for name in formats.FORMATS if name.startswith(_kind)]
            _family.add_mixture(f"{_name}_{_kind}", {name: _rates[name] for name in _forms})
            _family.add_micro_batch_mixture(f"{_name}_{_kind}", _sizes, _forms, same_question=False)
        if _family.has_teacher:
            _family.add_micro_batch_mixture(_name, _sizes, formats.FORMATS, same_question=True)
            _family.add_same_question_mixture(
                _name, _rates, {form: _sizes.effective(form) for form in _rates}
            )
        if _family is seed.FAMILY:
            seed.FAMILY.add_contrastive_mixture(_name, _sizes)
