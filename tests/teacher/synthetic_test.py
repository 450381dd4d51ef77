"""The synthetic teacher's samples: spelt by their tokens, plausible probabilities, wrong at the asked rate."""

import re

import pytest

from cotdistill_jax import teacher
from cotdistill_jax.teacher import synthetic

RATIONALE = "Bought: 3 * 8 = 24.\nLeft: 24 - 5 = 19 marbles."
TEXT = RATIONALE + "\nThe answer is 19"


def answer(number=0, error_rate=0.0, seed=0, rationale=RATIONALE, gold="19"):
    made = synthetic.SyntheticTeacher(seed, error_rate)
    return made.answer(f"q{number}", "How many?", rationale, gold)


def many(error_rate, num=400):
    made = synthetic.SyntheticTeacher(0, error_rate)
    return [made.answer(f"q{number}", "How many?", RATIONALE, "19") for number in range(num)]


def is_wrong(record):
    return not record.text.endswith("is 19")


def test_tokens_are_those_of_a_gpt_like_tokeniser():
    record = answer()
    assert record.text == TEXT
    assert record.tokens[:9] == ("Bought", ":", " 3", " *", " 8", " =", " 24", ".", "\n")
    assert record.tokens[9:18] == ("Left", ":", " 24", " -", " 5", " =", " 19", " marb", "les")
    assert record.tokens[18:] == (".", "\n", "The", " answer", " is", " 19")


def test_docstring_example():
    record = synthetic.SyntheticTeacher(error_rate=0.0).answer(
        "q0", "1 + 1?", "In all: 1 + 1 = 2 apples.", "2"
    )
    assert record.text == "In all: 1 + 1 = 2 apples.\nThe answer is 2"
    assert record.tokens[:7] == ("In", " all", ":", " 1", " +", " 1", " =")


def test_records_are_valid_and_spelt_by_their_tokens():
    for record in many(error_rate=0.5):
        teacher.validate_record(record)
        assert "".join(record.tokens) == record.text
        assert record.label is None


def test_rows_hold_five_different_candidates_with_four_decimals():
    for record in many(error_rate=0.3, num=60):
        for token, row in zip(record.tokens, record.top_k, strict=True):
            names = [name for name, _ in row]
            assert len(set(names)) == 5
            assert token in names
            assert sum(round(p * 10_000) for _, p in row) <= 10_000
            assert all(p == round(p, 4) for _, p in row)
            assert [p for _, p in row] == sorted((p for _, p in row), reverse=True)


def test_results_are_softer_than_operators():
    for record in many(error_rate=0.0, num=60):
        probs = [dict(row)[t] for t, row in zip(record.tokens, record.top_k, strict=True)]
        for token, before, prob in zip(record.tokens[1:], record.tokens, probs[1:], strict=False):
            if before == " =":
                assert 0.85 <= prob <= 0.99
            if token in (" =", " *", " -"):
                assert prob >= 0.97


def test_share_of_wrong_samples():
    assert sum(map(is_wrong, many(error_rate=0.1, num=2000))) == pytest.approx(200, abs=45)
    assert not any(map(is_wrong, many(error_rate=0.0)))
    assert all(map(is_wrong, many(error_rate=1.0)))


def test_wrong_samples_carry_the_wrong_result_on():
    for record in many(error_rate=1.0, num=200):
        first, second = re.findall(r"(\d+) [-*] (\d+) = (\d+)", record.text)
        assert first[:2] == ("3", "8")
        assert second[:2] == (first[2], "5")
        if first[2] != "24":
            assert int(second[2]) == max(1, int(first[2]) - 5)
        assert record.text.rpartition(" ")[2] == second[2] != "19"


def test_where_it_slips_the_right_number_leads():
    for record in many(error_rate=1.0, num=200):
        slips = [
            (token, row)
            for token, row in zip(record.tokens, record.top_k, strict=True)
            if row[0][0] != token
        ]
        ((token, row),) = slips
        assert row[0][0] in (" 24", " 19")
        assert row[1][0] == token
        assert row[1][1] < row[0][1]


def test_answer_that_no_calculation_gives_can_still_be_wrong():
    record = answer(error_rate=1.0, rationale="It says so.", gold="7")
    assert record.text.startswith("It says so.\nThe answer is ")
    assert record.text[-1] != "7"


def test_repeatable_in_any_order():
    made = synthetic.SyntheticTeacher(3)
    forwards = [made.answer(f"q{n}", "?", RATIONALE, "19") for n in range(20)]
    again = synthetic.SyntheticTeacher(3)
    backwards = [again.answer(f"q{n}", "?", RATIONALE, "19") for n in reversed(range(20))]
    assert forwards == backwards[::-1]


def test_seed_and_sample_change_the_sample():
    made = synthetic.SyntheticTeacher(0, error_rate=0.0)
    first = made.answer("q", "?", RATIONALE, "19", sample_id=0)
    assert first.top_k != made.answer("q", "?", RATIONALE, "19", sample_id=1).top_k
    assert first.top_k != answer(seed=1).top_k


def test_long_numbers_are_split_after_three_digits():
    assert answer(rationale="So 1234.", gold="5").tokens[:4] == ("So", " 123", "4", ".")


@pytest.mark.parametrize(("rationale", "gold"), [(None, "1"), ("1 + 1 = 2", "1,000")])
def test_unusable_gold_raises(rationale, gold):
    with pytest.raises(ValueError, match="needs a whole number and a rationale"):
        answer(rationale=rationale, gold=gold)


def test_a_rate_outside_raises():
    with pytest.raises(ValueError, match=r"error_rate is 1\.5"):
        synthetic.SyntheticTeacher(error_rate=1.5)
    with pytest.raises(ValueError, match=r"swap_rate is -1"):
        synthetic.SyntheticTeacher(swap_rate=-1)


def test_only_sums_and_products_are_swapped():
    rationale = "A: 7 * 8 = 56.\nB: 56 - 6 = 50.\nC: 50 / 2 = 25.\nD: 25 + 9 = 34."
    teacher = synthetic.SyntheticTeacher(error_rate=0.0, swap_rate=1.0)
    text = teacher.answer("q", "?", rationale, "34").text
    assert text == (
        "A: 8 * 7 = 56.\nB: 56 - 6 = 50.\nC: 50 / 2 = 25.\nD: 9 + 25 = 34.\nThe answer is 34"
    )
    some = synthetic.SyntheticTeacher(error_rate=0.0, swap_rate=0.5)
    texts = [some.answer("q", "?", rationale, "34", number).text for number in range(200)]
    assert len(set(texts)) == 4
    assert sum("8 * 7" in text for text in texts) == pytest.approx(100, abs=25)
