"""Labels by rule, first-sample accuracy and the majority vote, whole and in parts."""

import random

import pytest

from cotdistill_jax import answers
from cotdistill_jax.answers import labelling
from cotdistill_jax.teacher import TeacherRecord

RULE = answers.RULES["last_number"]


def statistics(samples, rule=RULE):
    made = labelling.Statistics(rule)
    for sample in samples:
        made.add(*sample)
    return made


def test_labels_a_record():
    record = TeacherRecord("q0", 0, "2 - 7?", "-5", "It is 5", (), (), None, "example")
    assert labelling.label(record, RULE).label is False
    assert (
        labelling.label(record, answers.RULES["seed_last_number"]).label is True
    )  # drops minus signs
    assert labelling.label(record, RULE).text == "It is 5"


def test_first_sample_and_majority():
    report = statistics(
        [
            ("q0", 0, "so 3", "2", False),
            ("q0", 1, "so 2", "2", True),
            ("q0", 2, "so 2.0", "2", None),
            ("q1", 0, "so 4", "4", True),
            ("q1", 1, "none", "4", True),
        ]
    ).report()
    assert report["first_sample_accuracy"] == 0.5
    assert report["majority_accuracy"] == 1.0
    assert report["sample_accuracy"] == 0.6
    assert report["samples_without_answer"] == 1
    assert report["questions_by_samples"] == {"2": 1, "3": 1}
    assert report["questions_never_right"] == 0
    assert report["stored_labels"] == {"correct": 3, "wrong": 1, "none": 1, "not_by_this_rule": 1}
    assert report["questions_with_unreadable_gold"] == 0
    assert (report["questions"], report["samples"], report["rule"]) == (2, 5, "last_number")


def test_a_gold_without_a_number_is_counted():
    made = statistics([("q0", 0, "so 3", "Yes", None), ("q0", 1, "so 3", "Yes", None)])
    assert made.add("q1", 0, "so 3", "3", None) is True
    assert made.add("q1", 1, "so 4", "3", None) is False
    assert made.report()["questions_with_unreadable_gold"] == 1
    assert made.report()["sample_accuracy"] == 0.25


@pytest.mark.parametrize(
    ("texts", "gold", "accuracy"),
    [
        (["1", "2", "2", "1"], "1", 1.0),  # among equals the first one wins
        (["1", "2", "2", "1"], "2", 0.0),
        (["none", "none", "2"], "2", 1.0),  # no answer, no vote
        (["none"], "2", 0.0),
    ],
)
def test_votes(texts, gold, accuracy):
    made = statistics([("q", number, text, gold, None) for number, text in enumerate(texts)])
    assert made.report()["majority_accuracy"] == accuracy


def test_nothing_added():
    report = statistics([]).report()
    assert report["majority_accuracy"] is None and report["sample_accuracy"] is None


def test_parts_add_up_in_any_order():
    draw = random.Random(0)
    samples = [
        (
            f"q{number % 7}",
            number // 7,
            draw.choice(["1", "2", "3", "none"]),
            "2" if number % 7 else "two",
            draw.choice([True, None]),
        )
        for number in range(200)
    ]
    whole = statistics(samples).report()
    parts = [statistics(samples[start::3]).counts() for start in (2, 0, 1)]
    merged = statistics([])
    for part in parts:
        merged.merge(part)
    assert merged.report() == whole
    assert 0 < whole["majority_accuracy"] < 1
