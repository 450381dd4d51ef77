"""Self-consistency: the answer that most samples of a question give.

Samples in which the rule finds no answer have no vote. Among answers of equally many votes the one that came first
wins, so that one vote is the first sample and more samples never change how a smaller number of them voted.

Source: Wang et al. 2023 (arXiv 2203.11171).
"""

import collections
from collections.abc import Mapping, Sequence

from cotdistill_jax.inference import scoring
from cotdistill_jax.inference.predictions import Prediction


def winner(samples: Sequence[Prediction], rule: str) -> Prediction:
    """Returns the first sample that gives the answer of most samples.

    Args:
        samples: graded samples of one question, at least one, in the order of their numbers.
        rule: the rule that reads their answers.

    Returns:
        A sample with the winning answer; the first sample where none has an answer.
    """
    votes = collections.Counter(s.extracted[rule] for s in samples if s.extracted[rule] is not None)
    if not votes:
        return samples[0]
    answer = votes.most_common(1)[0][0]  # the first one counted, among equals
    return next(s for s in samples if s.extracted[rule] == answer)


def by_question(samples: Sequence[Prediction]) -> Mapping[str, list[Prediction]]:
    """Returns the samples of every question, in the order of their numbers.

    Raises:
        ValueError: the questions have different numbers of samples; a sample comes twice; or one id stands for different
            questions, as in files of different versions of a benchmark.
    """
    groups: dict[str, list[Prediction]] = {}
    for sample in sorted(samples, key=lambda s: s.sample_id):
        groups.setdefault(sample.id, []).append(sample)
    for id_, group in groups.items():
        asked = {(sample.question, sample.gold) for sample in group}
        if len(asked) > 1 or len({sample.sample_id for sample in group}) < len(group):
            raise ValueError(
                f"inference: {id_} has {len(group)} samples, of {len(asked)} different questions and "
                f"{len({sample.sample_id for sample in group})} different numbers; a vote needs different samples of one "
                "question. Take files of one evaluation, or of different questions."
            )
    sizes = collections.Counter(len(group) for group in groups.values())
    if len(sizes) > 1:
        raise ValueError(
            f"inference: questions by their number of samples: {dict(sorted(sizes.items()))}; a vote needs equally "
            "many of each. Run the evaluation to its end."
        )
    return groups


def curve(benchmark: str, prompt: str, samples: Sequence[Prediction]) -> list[scoring.Result]:
    """Returns the results of voting among the first 1, 2, 4, 8, ... samples, and among all.

    Args:
        benchmark: name with split, as the results are to be called.
        prompt: prompt mode; a result is called `<prompt>@<number of votes>`.
        samples: graded samples, equally many of every question.

    Raises:
        ValueError: no samples, or not equally many of every question.
    """
    groups = by_question(samples)
    if not groups:
        raise ValueError(f"inference: {benchmark} has no predictions to vote")
    num_samples = len(next(iter(groups.values())))
    return [_result(benchmark, prompt, list(groups.values()), n) for n in sizes(num_samples)]


def sizes(num_samples: int) -> list[int]:
    """Returns 1, 2, 4, 8, ... up to and including `num_samples`, which comes last.

    Example: `sizes(6) == [1, 2, 4, 6]`.
    """
    return sorted({*(1 << power for power in range(num_samples.bit_length())), num_samples})


def _result(
    benchmark: str, prompt: str, groups: Sequence[Sequence[Prediction]], size: int
) -> scoring.Result:
    rules = scoring.rules_for(groups[0][0].benchmark)
    scores = {
        rule: scoring.score([winner(group[:size], rule) for group in groups], rule)
        for rule in rules
    }
    unfinished = sum(not sample.finished for group in groups for sample in group[:size])
    return scoring.Result(benchmark, f"{prompt}@{size}", rules[0], scores, unfinished)
