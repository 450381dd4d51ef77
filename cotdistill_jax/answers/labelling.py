"""Labels for a teacher's samples, and how good the teacher is: first-sample accuracy, accuracy of a majority vote, per question.

Counts of parts can be added up (`merge`), so that several processes can share a folder of records.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cotdistill_jax.answers.rule import Rule
from cotdistill_jax.teacher import TeacherRecord


def label(record: TeacherRecord, rule: Rule) -> TeacherRecord:
    """Returns the record with the label that a rule gives it: whether its text answers the question with the gold."""
    return dataclasses.replace(record, label=rule.is_correct(record.text, record.gold))


@dataclasses.dataclass
class _Answer:
    """Samples of a question that give the same answer.

    Attributes:
        votes: how many there are.
        first_sample: number of the first one.
        correct: whether that one is correct.
    """

    votes: int
    first_sample: int
    correct: bool


@dataclasses.dataclass
class _Question:
    """What the samples of one question add up to.

    Attributes:
        samples: how many there are.
        correct: how many of them are.
        first_sample: lowest number of a sample.
        first_correct: whether that one is correct.
        answers: by answer; samples without one are not in it.
        readable: whether the rule finds an answer in the gold.
    """

    samples: int = 0
    correct: int = 0
    first_sample: int | None = None
    first_correct: bool = False
    answers: dict[str, _Answer] = dataclasses.field(default_factory=dict)
    readable: bool = True

    def see_first(self, sample_id: int, correct: bool) -> None:
        """Notes a sample, if it is the first one so far."""
        if self.first_sample is None or sample_id < self.first_sample:
            self.first_sample, self.first_correct = sample_id, correct

    def vote(self, answer: str, other: _Answer) -> None:
        """Adds votes for an answer."""
        known = self.answers.get(answer)
        if known is None:
            self.answers[answer] = other
            return
        known.votes += other.votes
        if other.first_sample < known.first_sample:
            known.first_sample, known.correct = other.first_sample, other.correct

    def majority(self) -> _Answer | None:
        """Returns the answer with most votes, the earliest one among equals; None if no sample has an answer."""
        order = sorted(self.answers.values(), key=lambda found: (-found.votes, found.first_sample))
        return order[0] if order else None


class Statistics:
    """How a teacher's samples answer their questions by one rule; add records or parts, then ask for the report.

    Example: three samples of one question with gold 2 that say 3, 2 and 2 -> `first_sample_accuracy` 0.0, `majority_accuracy` 1.0,
    `sample_accuracy` 0.6667.
    """

    def __init__(self, rule: Rule) -> None:
        """Starts with nothing.

        Args:
            rule: reads and compares the answers.
        """
        self.rule = rule
        self._questions: dict[str, _Question] = {}
        self._without_answer = 0
        self._labels = {"correct": 0, "wrong": 0, "none": 0, "not_by_this_rule": 0}

    def add(
        self, question_id: str, sample_id: int, text: str, gold: str, stored_label: bool | None
    ) -> bool:
        """Counts one sample and returns whether it is correct by the rule.

        Args:
            question_id: as in `TeacherRecord`.
            sample_id: number of the sample; the lowest one of a question is its first.
            text: the sample.
            gold: gold answer.
            stored_label: label that the record carries, to be compared with the rule's.
        """
        answer = self.rule.extract(text)
        correct = answer is not None and self.rule.is_correct(text, gold)
        if question_id not in self._questions:
            self._questions[question_id] = _Question(readable=self.rule.can_read_gold(gold))
        question = self._questions[question_id]
        question.samples += 1
        question.correct += correct
        question.see_first(sample_id, correct)
        if answer is None:
            self._without_answer += 1
        else:
            question.vote(answer, _Answer(1, sample_id, correct))
        self._labels[{True: "correct", False: "wrong", None: "none"}[stored_label]] += 1
        self._labels["not_by_this_rule"] += stored_label is not None and stored_label != correct
        return correct

    def counts(self) -> dict[str, Any]:
        """Returns everything counted, as JSON values for `merge`."""
        return {
            "without_answer": self._without_answer,
            "labels": dict(self._labels),
            "questions": {
                question_id: [
                    question.samples,
                    question.correct,
                    question.first_sample,
                    question.first_correct,
                    {
                        answer: dataclasses.astuple(found)
                        for answer, found in question.answers.items()
                    },
                    question.readable,
                ]
                for question_id, question in self._questions.items()
            },
        }

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds the counts of another part, given as `counts` returned them."""
        self._without_answer += other["without_answer"]
        for name, number in other["labels"].items():
            self._labels[name] += number
        for question_id, (samples, correct, first, first_correct, found, readable) in other[
            "questions"
        ].items():
            question = self._questions.setdefault(question_id, _Question(readable=readable))
            question.samples += samples
            question.correct += correct
            question.see_first(first, first_correct)
            for answer, fields in found.items():
                question.vote(answer, _Answer(*fields))

    def report(self) -> dict[str, Any]:
        """Returns the report; accuracies in [0, 1], over questions but for `sample_accuracy`, null where nothing was added.

        `questions_by_samples` says how many questions have how many samples, `questions_never_right` how many have no correct one,
        `questions_with_unreadable_gold` in how many the rule finds no answer in the gold, so that no sample can be right,
        `stored_labels` how many records were labelled right, wrong and not at all, and how many labels are not the rule's.
        """
        questions = list(self._questions.values())
        samples = sum(question.samples for question in questions)
        majorities = [question.majority() for question in questions]
        sizes: dict[int, int] = {}
        for question in questions:
            sizes[question.samples] = sizes.get(question.samples, 0) + 1
        return {
            "rule": self.rule.name,
            "questions": len(questions),
            "samples": samples,
            "sample_accuracy": _share(sum(question.correct for question in questions), samples),
            "first_sample_accuracy": _share(
                sum(question.first_correct for question in questions), len(questions)
            ),
            "majority_accuracy": _share(
                sum(found is not None and found.correct for found in majorities), len(questions)
            ),
            "samples_without_answer": self._without_answer,
            "questions_never_right": sum(not question.correct for question in questions),
            "questions_with_unreadable_gold": sum(not question.readable for question in questions),
            "questions_by_samples": {str(size): sizes[size] for size in sorted(sizes)},
            "stored_labels": dict(self._labels),
        }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
