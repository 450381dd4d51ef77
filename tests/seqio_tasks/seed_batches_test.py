"""The seed's batch accounting: the numbers it printed, and the weights that follow from its batch sizes."""

import pytest

from cotdistill_jax.seqio_tasks import seed_batches
from cotdistill_jax.seqio_tasks.seed_batches import BATCH_SIZES, NUM_EXAMPLES, BatchSizes, epoch

FORMATS = ("in_context_cot", "zero_shot_cot", "in_context_answer_only", "zero_shot_answer_only")


def test_epoch_of_the_3b_model():
    made = epoch(BATCH_SIZES["3b"])
    assert made.total_micro_batches == 130_530
    assert made.optimizer_steps == 4_351
    assert dict(made.micro_batches) == dict(zip(FORMATS, (103_560, 25_890, 720, 360), strict=True))
    assert made.dropped["in_context_cot"] == 15


@pytest.mark.parametrize("questions", [7_350, 7_379])
@pytest.mark.parametrize(
    ("size", "percents"),
    [
        ("250m", (60.1, 37.5, 1.5, 0.9)),
        ("780m", (67.7, 30.1, 1.6, 0.6)),
        ("3b", (79.3, 19.8, 0.55, 0.28)),
        ("11b", (79.3, 19.8, 0.55, 0.28)),
        ("11b_8cards", (65.4, 32.7, 1.1, 0.8)),
    ],
)
def test_weights_are_those_of_the_paper(size, percents, questions):
    examples = NUM_EXAMPLES | dict.fromkeys(FORMATS[2:], questions)
    weights = epoch(BATCH_SIZES[size], examples).weights
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-12)
    for name, percent in zip(FORMATS, percents, strict=True):
        decimals = len(str(percent).partition(".")[2])
        assert round(100 * weights[name], decimals) == percent, name


def test_ablations_leave_formats_out():
    made = epoch(BATCH_SIZES["3b"], {"zero_shot_cot": 207_135, "zero_shot_answer_only": 7_300})
    assert set(made.weights) == {"zero_shot_cot", "zero_shot_answer_only"}


def test_nothing_and_unknown():
    with pytest.raises(ValueError, match="no whole effective batch"):
        epoch(BATCH_SIZES["3b"], {"in_context_cot": 59})
    with pytest.raises(KeyError, match="unknown format 'cot'"):
        epoch(BatchSizes(1, 1, 1, 1, 1), {"cot": 59})
    assert (
        seed_batches.epoch(BatchSizes(1, 1, 1, 1, 1), {"in_context_cot": 59}).optimizer_steps == 59
    )
