"""The embedded problems: right arithmetic, splits apart, repeatable, varied."""

import collections
import re

import pytest

from cotdistill_jax import benchmarks
from cotdistill_jax.benchmarks import arith

STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}

DISTRACTOR_FRAMES = [
    re.compile(
        re.sub(r"\\{(name|friend)\\}", r"\\w+", re.escape(text)).replace(r"\{d\}", r"\d+") + " "
    )
    for text in arith.DISTRACTORS
]


@pytest.fixture(scope="module")
def train():
    return arith.load("train", 6_000)


@pytest.fixture(scope="module")
def held_out():
    return {split: arith.load(split) for split in ("validation", "test")}


def test_every_calculation_is_right_and_the_last_one_is_the_answer(train, held_out):
    for question in [*train, *held_out["validation"], *held_out["test"]]:
        results = []
        for line in question.rationale.split("\n"):
            ((left, symbol, right, result),) = STEP.findall(line)
            assert OPERATIONS[symbol](int(left), int(right)) == int(result), question
            assert 1 <= int(result) <= arith.MAX_RESULT
            results.append(result)
        assert results[-1] == question.gold
        assert arith.num_steps(question) == len(results) in (2, 3)


def test_every_number_used_is_given_or_computed(train):
    for question in train[:1_000]:
        known = {*re.findall(r"\d+", question.question), "2"}  # "half", "twice"
        for left, _, right, result in STEP.findall(question.rationale):
            assert {left, right} <= known, question
            known.add(result)


def test_at_least_twenty_templates_all_in_use():
    assert len({template.name for template in arith.TEMPLATES}) == len(arith.TEMPLATES) >= 20
    drawn = collections.Counter()
    for question in arith.load("train", 6_000):
        opening = re.sub(r"\d+", "#", question.rationale)
        for name in arith.NAMES:
            opening = opening.replace(name, "NAME")
        for item in arith.ITEMS:
            opening = opening.replace(item, "ITEM")
        drawn[opening] += 1
    assert len(drawn) >= 20


def situation(question):
    """Returns the question without distractor, names and items: its template and its numbers."""
    text = question.question
    for frame in DISTRACTOR_FRAMES:
        text = frame.sub("", text)
    words = "|".join([*arith.NAMES, *arith.ITEMS])
    return re.sub(rf"\b({words})\b", "WORD", text).strip()


def test_splits_never_share_a_calculation(held_out):
    seen = {split: {situation(q) for q in held_out[split]} for split in held_out}
    seen["train"] = {situation(q) for q in arith.load("train", 20_000)}
    assert len(seen["train"]) > 4_000
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_splits_share_no_question(train, held_out):
    texts = {split: {q.question for q in held_out[split]} for split in held_out}
    texts["train"] = {q.question for q in train}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]


def test_repeatable_and_prefix():
    assert arith.load("train", 50) == arith.load("train", 80)[:50]
    assert arith.load("train", 50) != arith.load("train", 50, seed=1)


def test_the_other_way_is_right_too_and_gives_the_same_answer(train):
    others = arith.other_rationales("train", len(train))
    assert 0.4 < sum(other is not None for other in others) / len(train) < 0.7
    for question, other in zip(train, others, strict=True):
        if other is None:
            continue
        known = {*re.findall(r"\d+", question.question), "1", "2"}  # "Parts: b + 1", "Twice: a * 2"
        for left, symbol, right, result in STEP.findall(other):
            assert {left, right} <= known, (question, other)
            assert OPERATIONS[symbol](int(left), int(right)) == int(result), other
            known.add(result)
        assert result == question.gold
        assert not re.search(r"[{}]", other) and len(other.split("\n")) == len(STEP.findall(other))


def test_sizes_and_ids(held_out):
    assert len(held_out["test"]) == arith.SPLIT_SIZES["test"] == 200
    assert [q.id for q in held_out["test"][:2]] == ["arith/test/0", "arith/test/1"]
    assert benchmarks.load("arith", "test") == held_out["test"]


def test_questions_do_not_repeat(train):
    assert len({q.question for q in train}) == len(train)


def test_texts_are_formatted(train):
    for question in train:
        for text in (question.question, question.rationale):
            assert not re.search(r"[{}]|  |\s$|^\s|\.\.|\.[A-Z]", text), text
        assert question.question.endswith("?")
        assert question.gold.isdecimal()


def test_distractors_are_there_at_their_rate_and_never_used(train):
    with_one = [q for q in train if any(frame.search(q.question) for frame in DISTRACTOR_FRAMES)]
    assert len(with_one) / len(train) == pytest.approx(arith.DISTRACTOR_RATE, abs=0.03)


def test_unknown_split_lists_the_splits():
    with pytest.raises(KeyError, match=r"unknown split 'dev'.*test.*train.*validation"):
        arith.load("dev")
