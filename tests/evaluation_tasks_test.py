"""The tasks of whole benchmarks ask what the evaluator asks, score what it scores, and cut nothing."""

import os

import pytest
import seqio
import tensorflow as tf

import tasks
from cotdistill_jax import benchmarks, features
from cotdistill_jax.inference import prompts, scoring

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        "COTDISTILL_DATA_DIR" not in os.environ, reason="COTDISTILL_DATA_DIR is not set"
    ),
]
PREDICTIONS = ["The answer is 18.", "So the answer is (A).", "nothing", "The answer is -3"]


@pytest.mark.parametrize("mode", tasks.evaluation.PROMPTS)
@pytest.mark.parametrize("benchmark", ["gsm8k", "multiarith", "asdiv", "svamp", "bbh/snarks"])
def test_inputs_and_metrics_are_the_evaluator_s(benchmark: str, mode: str) -> None:
    task = seqio.TaskRegistry.get(f"{benchmark.replace('/', '_')}_{mode}_eval_v1")
    vocabulary = task.output_features["inputs"].vocabulary
    lengths = {"inputs": 2048, "targets": 64}
    rows = list(task.get_dataset(lengths, "test", shuffle=False).take(4).as_numpy_iterator())
    prompt = prompts.build(mode, benchmark)
    questions = benchmarks.load(benchmark)[: len(rows)]
    for row, question in zip(rows, questions, strict=True):
        ids = [*vocabulary.tokenizer.encode(prompt.render(question.question)), 1]
        assert row["inputs"].tolist() == ids
        assert row["answer"].decode() == question.gold
    golds = [task.postprocess_fn("", example=row, is_target=True) for row in rows]
    (metric,) = task.metric_fns
    headline = scoring.rules_for(benchmark)[0]
    right = [
        scoring.grade(text, gold, benchmark)[1][headline]
        for text, gold in zip(PREDICTIONS, golds, strict=True)
    ]
    assert metric(golds, PREDICTIONS)["accuracy"] == 100 * sum(right) / len(right)


def test_too_short_lengths_stop_an_evaluation_in_seqio_itself() -> None:
    task = seqio.TaskRegistry.get("gsm8k_cot_4_cases_eval_v1")
    dataset = task.get_dataset({"inputs": 256, "targets": 64}, "test", shuffle=False)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"inputs has.*allowed are.*gsm8k/test"
    ):
        list(dataset.take(1))


def test_mixtures_hold_every_benchmark() -> None:
    names = {
        task.name for task in seqio.MixtureRegistry.get("benchmarks_cot_4_cases_eval_v1").tasks
    }
    assert len(names) == len(benchmarks.MATHS) + len(benchmarks.BBH) == 31
    assert features.require_lengths in seqio.TaskRegistry.get(sorted(names)[0]).preprocessors
