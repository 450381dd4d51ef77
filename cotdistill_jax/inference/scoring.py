"""From saved texts to accuracies: every rule of a benchmark side by side, each with its 95 % interval."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cotdistill_jax import answers, benchmarks

if TYPE_CHECKING:
    from cotdistill_jax.inference.predictions import Prediction

Z_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % above it."""


def rules_for(benchmark: str) -> tuple[str, ...]:
    """Returns the answer rules of a benchmark, the headline rule first.

    Example: `rules_for("gsm8k")[0] == "last_number"`, `rules_for("bbh/navigate")[0] == "bbh_exact"`.
    """
    rules = answers.BBH_RULES if benchmark in benchmarks.BBH else answers.MATHS_RULES
    return tuple(rule.name for rule in rules)


def grade(text: str, gold: str, benchmark: str) -> tuple[dict[str, str | None], dict[str, bool]]:
    """Returns what each rule of a benchmark reads in a text, and whether that is right.

    Example: `grade("It is 5.", "5", "gsm8k")[0]["last_number"] == "5"`.
    """
    rules = rules_for(benchmark)
    extracted = {rule: answers.extract(text, rule) for rule in rules}
    return extracted, {rule: answers.is_correct(text, gold, rule) for rule in rules}


@dataclasses.dataclass(frozen=True)
class Score:
    """How one rule judges the predictions for one benchmark.

    Attributes:
        n: questions, at least 1.
        correct: answered correctly.
        accuracy: `correct / n`; for `bbh` as a whole the mean of its tasks.
        unparsed: texts in which the rule finds no answer; they count as wrong.
        unreadable_golds: golds that the rule cannot read; they are in `n` all the same.
        interval_95: 95 % confidence interval of the accuracy.
    """

    n: int
    correct: int
    accuracy: float
    unparsed: int
    unreadable_golds: int
    interval_95: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Result:
    """Accuracy of one model on one benchmark with one prompt, by every rule.

    Attributes:
        benchmark: as asked for, split included: `gsm8k`, `gsm8k:dev`, `bbh/navigate`, `bbh`.
        prompt: prompt mode.
        headline: the rule whose accuracy is the number to quote.
        scores: by rule.
        unfinished: texts stopped by the length limit before the model ended them.
        golds_outside_vocabulary: golds with characters that the model's vocabulary lacks, so that no text of the model equals them;
            None where nobody counted (predictions scored without a model).
    """

    benchmark: str
    prompt: str
    headline: str
    scores: dict[str, Score]
    unfinished: int
    golds_outside_vocabulary: int | None = None

    @property
    def score(self) -> Score:
        """The score by the headline rule."""
        return self.scores[self.headline]


def score(predictions: Sequence["Prediction"], rule: str) -> Score:
    """Returns the score of graded predictions by one rule.

    Raises:
        ValueError: there are no predictions.
    """
    n = len(predictions)
    if not n:
        raise ValueError("inference: no predictions to score; expected at least one")
    correct = sum(p.correct[rule] for p in predictions)
    unparsed = sum(p.extracted[rule] is None for p in predictions)
    unreadable = len(answers.unreadable([p.gold for p in predictions], rule))
    return Score(n, correct, correct / n, unparsed, unreadable, wilson_interval(correct, n))


def tally(benchmark: str, prompt: str, predictions: Sequence["Prediction"]) -> Result:
    """Returns the result of graded predictions by all rules of their benchmark.

    Args:
        benchmark: name with split, as the result is to be called.
        prompt: prompt mode.
        predictions: at least one, graded by the rules of one benchmark.
    """
    if not predictions:
        raise ValueError(f"inference: {benchmark} has no predictions to score")
    rules = rules_for(predictions[0].benchmark)
    scores = {rule: score(predictions, rule) for rule in rules}
    unfinished = sum(not p.finished for p in predictions)
    return Result(benchmark, prompt, rules[0], scores, unfinished)


def mean_of_tasks(results: Sequence[Result]) -> list[Result]:
    """Returns a result called `bbh` per prompt for which all 27 tasks are among `results`.

    Its accuracy is the unweighted mean of the tasks, as published; the interval is the normal approximation for
    such a mean, the standard errors of the tasks adding up in quadrature.
    """
    means = []
    for prompt in dict.fromkeys(result.prompt for result in results):
        tasks = [r for r in results if r.prompt == prompt and r.benchmark in benchmarks.BBH]
        if len(tasks) == len(benchmarks.BBH):
            scores = {rule: _mean([t.scores[rule] for t in tasks]) for rule in tasks[0].scores}
            unfinished = sum(task.unfinished for task in tasks)
            outside = [task.golds_outside_vocabulary for task in tasks]
            unspelled = None if None in outside else sum(n for n in outside if n is not None)
            means.append(Result("bbh", prompt, tasks[0].headline, scores, unfinished, unspelled))
    return means


def _mean(scores: Sequence[Score]) -> Score:
    accuracy = sum(s.accuracy for s in scores) / len(scores)
    variance = sum(s.accuracy * (1 - s.accuracy) / s.n for s in scores) / len(scores) ** 2
    margin = Z_95 * math.sqrt(variance)
    return Score(
        n=sum(s.n for s in scores),
        correct=sum(s.correct for s in scores),
        accuracy=accuracy,
        unparsed=sum(s.unparsed for s in scores),
        unreadable_golds=sum(s.unreadable_golds for s in scores),
        interval_95=(max(0.0, accuracy - margin), min(1.0, accuracy + margin)),
    )


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a proportion.

    With p = correct / n and z = `Z_95`:
    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Args:
        correct: successes, 0 to n.
        n: trials, at least 1.

    Example: `wilson_interval(0, 10)` is (0.0, 0.2775) to four decimals.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    p, square = correct / n, Z_95 * Z_95 / n
    centre = p + square / 2
    margin = math.sqrt(square * (p * (1 - p) + square / 4))
    low, high = (centre - margin) / (1 + square), (centre + margin) / (1 + square)
    return (0.0 if correct == 0 else low, 1.0 if correct == n else high)
