"""The verifier: a FlanT5 that writes right or wrong rationales as it is told, and so can judge one; reranking by what it says.

It is trained on labelled samples: the input is the student's zero-shot input below the line `right` or `wrong`, the target is the
sample. Of a new rationale r for a question q it gives two likelihoods, P(r | q, right) and P(r | q, wrong), and from them

    verdict = P(r | q, right) / (P(r | q, right) + P(r | q, wrong))          Bayes' rule, right and wrong equally likely before.

Labelled samples are prediction files with several samples per question, labelled by an answer rule; `tasks/verifier.py` makes
a SeqIO task of them, and either runner trains on it like on any other, best from the weights of the student that drew them.

Ways to choose among the samples of a question: `vote`, the most frequent answer; `best_of`, the sample of the highest score;
`weighted_winner`, the answer whose samples have the highest sum of scores. A score may be the verdict, the likelihood
P(r | q, right), or the probability that the student itself gave the sample. The likelihood also prefers usual wording and short
texts, which the verdict cancels; on `arith`, where there are few wordings, it chooses best.

Why likelihoods, not a word: a verifier that reads question and rationale and answers yes or no (Cobbe et al.) gets one bit per
sample to learn from. On `arith` such a one, without pretraining, learned in 500 steps which questions are hard (area under the ROC
curve 0.82), not which of their samples are wrong: its best of 16 was right for 56 %, a sample at random for 65 %. A writer is
taught at every token.

Source: Cobbe et al. 2021 (arXiv 2110.14168), section 4, for verifiers; Krause et al. 2021 (arXiv 2009.06367) for class-conditional
language models as classifiers; Li et al. 2022 (arXiv 2206.02336) for the weighted vote.
"""

import collections
import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cotdistill_jax
from cotdistill_jax import files, formats
from cotdistill_jax.files import file_sha256, write_json_atomically
from cotdistill_jax.inference import predictions, scoring, voting
from cotdistill_jax.inference.predictions import Prediction
from cotdistill_jax.teacher.shards import MANIFEST_NAME

RIGHT, WRONG = "right", "wrong"
STUDENT_FORMAT = formats.FORMATS["zero_shot_cot"]

SPLITS = ("train", "validation")
SCHEMA_VERSION = 2

SCORES = ("verdict", "likelihood", "student")
"""What a sample can be scored by: P(right | q, r), P(r | q, right), or the student's own probability of the sample."""

Scores = Mapping[tuple[str, int], float]
Choice = Callable[[Sequence[Prediction], str, Scores], Prediction]


def render(question: str, right: bool) -> str:
    """Returns what the verifier reads before it writes, or judges, a rationale.

    Example: `render("1 + 1?", True)` is `"right\\nQ: 1 + 1?\\nLet's think step by step"`.
    """
    return f"{RIGHT if right else WRONG}\n{STUDENT_FORMAT.render_input(question)}"


class Judgement(NamedTuple):
    """What a verifier makes of a rationale.

    Attributes:
        log_prob_if_right: log P(r | q, right), natural logarithm, of the whole text.
        log_prob_if_wrong: log P(r | q, wrong).
    """

    log_prob_if_right: float
    log_prob_if_wrong: float

    @property
    def verdict(self) -> float:
        """P(right | q, r), in [0, 1]: `Judgement(-2.0, -2.0).verdict == 0.5`."""
        odds = self.log_prob_if_right - self.log_prob_if_wrong
        return 1 / (1 + math.exp(-odds)) if odds > 0 else math.exp(odds) / (1 + math.exp(odds))

    @property
    def likelihood(self) -> float:
        """P(r | q, right), in [0, 1]."""
        return math.exp(self.log_prob_if_right)


@dataclasses.dataclass(frozen=True)
class LabelledSample:
    """One training example of a verifier.

    Attributes:
        question_id: as in `benchmarks.Question.id`.
        question: the question's text.
        rationale: a text that answers it, rightly or not.
        right: whether its answer is right.
    """

    question_id: str
    question: str
    rationale: str
    right: bool


def label(samples: Iterable[Prediction], rule: str) -> tuple[list[LabelledSample], dict[str, int]]:
    """Returns the distinct samples with their labels by an answer rule, and how many were left out and why.

    Args:
        samples: drawn texts.
        rule: the rule whose verdict is the label.

    Returns:
        The samples in order; counts `in`, `out`, `right`, `dropped_repeated` (the same text for the same question)
        and `dropped_unfinished` (stopped by the length limit: no answer was given).
    """
    kept: dict[tuple[str, str], LabelledSample] = {}
    counts = collections.Counter[str]()
    for sample in samples:
        counts["in"] += 1
        if not sample.finished:
            counts["dropped_unfinished"] += 1
        elif (sample.id, sample.text) in kept:
            counts["dropped_repeated"] += 1
        else:
            kept[sample.id, sample.text] = LabelledSample(
                sample.id, sample.question, sample.text, sample.correct[rule]
            )
    right = sum(sample.right for sample in kept.values())
    names = ("in", "dropped_unfinished", "dropped_repeated")
    return list(kept.values()), {n: counts[n] for n in names} | {"out": len(kept), "right": right}


def write_corpus(
    folder: files.AnyPath,
    prediction_files: Sequence[files.AnyPath],
    rule: str = "last_number",
    validation_questions: int = 200,
    seed: int = 0,
) -> dict[str, int]:
    """Writes `train.jsonl`, `validation.jsonl` (other questions) and a manifest; returns the counts.

    Args:
        folder: made where missing.
        prediction_files: what an evaluation with `--num_samples` wrote, for training questions.
        rule: labels the samples.
        validation_questions: questions, drawn by `seed`, whose samples are held out.
        seed: seed of that draw.

    Raises:
        ValueError: too few questions, or samples that are all right or all wrong.
    """
    samples = [sample for file in prediction_files for sample in predictions.read(file)]
    labelled, counts = label(samples, rule)
    ids = sorted({sample.question_id for sample in labelled})
    if len(ids) <= validation_questions or not 0 < counts["right"] < counts["out"]:
        raise ValueError(
            f"inference: a verifier needs right and wrong samples of more than {validation_questions} questions, "
            f"got {counts['right']} right of {counts['out']} for {len(ids)} questions. Draw samples for more "
            "questions, at a higher temperature."
        )
    held_out = set(random.Random(seed).sample(ids, validation_questions))
    folder = files.as_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        chosen = [s for s in labelled if (s.question_id in held_out) == (split == "validation")]
        counts[split] = len(chosen)
        lines = [json.dumps(dataclasses.asdict(s), ensure_ascii=False) + "\n" for s in chosen]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    manifest = {
        "artefact": "verifier_corpus",
        "schema_version": SCHEMA_VERSION,
        "code_version": cotdistill_jax.__version__,
        "config": {"rule": rule, "validation_questions": validation_questions, "seed": seed},
        "inputs": {str(f): file_sha256(f) for f in prediction_files},
        "counts": counts,
    }
    write_json_atomically(folder / MANIFEST_NAME, manifest)
    return counts


def read_corpus(folder: files.AnyPath, split: str) -> list[LabelledSample]:
    """Returns the labelled samples of one of `SPLITS`.

    Raises:
        FileNotFoundError: the folder was not written by `write_corpus`.
        ValueError: a line is not a labelled sample; the message names file and line.
    """
    path = files.as_path(folder) / f"{split}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"inference: no labelled samples at {path}; write them with scripts/label_samples.py --output_dir={folder}"
        )
    found = []
    for number, fields in files.read_json_lines(path, "inference"):
        try:
            found.append(LabelledSample(**fields))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"inference: {path} line {number} is no labelled sample: {error}; write the file again with "
                "scripts/label_samples.py"
            ) from error
    return found


def best_of(samples: Sequence[Prediction], rule: str, scores: Scores) -> Prediction:
    """Returns the sample of the highest score, the first among equals; one with an answer where there is one.

    Args:
        samples: graded samples of one question, at least one.
        rule: the rule that reads their answers.
        scores: by (question id, sample id).
    """
    answered = [s for s in samples if s.extracted[rule] is not None] or list(samples)
    return max(answered, key=lambda sample: scores[sample.key])


def weighted_winner(samples: Sequence[Prediction], rule: str, scores: Scores) -> Prediction:
    """Returns the first sample that gives the answer of the highest sum of scores; arguments as in `best_of`."""
    sums: dict[str, float] = {}
    for sample in samples:
        answer = sample.extracted[rule]
        if answer is not None:
            sums[answer] = sums.get(answer, 0.0) + scores[sample.key]
    if not sums:
        return samples[0]
    best = max(sums, key=lambda answer: sums[answer])
    return next(s for s in samples if s.extracted[rule] == best)


def vote(samples: Sequence[Prediction], rule: str, scores: Scores) -> Prediction:
    """Returns the first sample that gives the most frequent answer; arguments as in `best_of`, the scores count nothing."""
    del scores
    return voting.winner(samples, rule)


def chosen(samples: Sequence[Prediction], choose: Choice, scores: Scores) -> list[Prediction]:
    """Returns the chosen sample of every question, by the headline rule of its benchmark, as its one prediction.

    Args:
        samples: graded samples, equally many of every question.
        choose: `vote`, `best_of` or `weighted_winner`.
        scores: by (question id, sample id).

    Raises:
        ValueError: no samples, or not equally many of every question.
    """
    groups = voting.by_question(samples)
    if not groups:
        raise ValueError("inference: no samples to choose from; expected at least one")
    rule = scoring.rules_for(samples[0].benchmark)[0]
    winners = [choose(group, rule, scores) for group in groups.values()]
    return [dataclasses.replace(winner, sample_id=0) for winner in winners]


def student_scores(samples: Sequence[Prediction]) -> Scores:
    """Returns the probability that the student gave each sample, at temperature 1; a baseline that needs no verifier.

    Raises:
        ValueError: a sample's probability is unknown, as in transcripts.
    """
    unknown = [sample.key for sample in samples if sample.log_prob is None]
    if unknown:
        raise ValueError(
            f"inference: {len(unknown)} samples have no log_prob, such as {unknown[0]}; expected what "
            "`python -m cotdistill_jax.inference --num_samples` wrote"
        )
    return {sample.key: math.exp(sample.log_prob or 0.0) for sample in samples}


def separation(samples: Sequence[Prediction], scores: Scores, rule: str) -> float | None:
    """Returns the area under the ROC curve of the scores: how often a right sample outscores a wrong one.

    Args:
        samples: graded samples.
        scores: by (question id, sample id).
        rule: says which are right.

    Returns:
        In [0, 1], ties counting half; None where all samples are right or all are wrong.

    Example: scores 0.9 (right), 0.2 (wrong), 0.1 (right) give 0.5.
    """
    ordered = sorted((scores[s.key], s.correct[rule]) for s in samples)
    right = sum(is_right for _, is_right in ordered)
    wrong = len(ordered) - right
    if not right or not wrong:
        return None
    ranks: dict[float, list[int]] = collections.defaultdict(list)
    for place, (score, _) in enumerate(ordered, start=1):
        ranks[score].append(place)
    total = sum(sum(ranks[score]) / len(ranks[score]) for score, is_right in ordered if is_right)
    return (total - right * (right + 1) / 2) / (right * wrong)


def judgements_to_json(judgements: Mapping[tuple[str, int], Judgement]) -> list[dict[str, Any]]:
    """Returns rows of `id`, `sample_id`, both log-probabilities and the verdict, in order."""
    return [
        {"id": id_, "sample_id": sample}
        | {name: round(value, 6) for name, value in judgement._asdict().items()}
        | {"verdict": round(judgement.verdict, 6)}
        for (id_, sample), judgement in judgements.items()
    ]
