import pytest

from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import predictions, voting


def samples(row, texts, gold="5"):
    question = Question(f"gsm8k/test/{row}", "gsm8k", f"{row}?", gold)
    return [
        predictions.graded(
            question,
            "zero_shot_cot",
            text,
            log_prob=-1.0,
            num_tokens=3,
            finished=True,
            sample_id=number,
        )
        for number, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("texts", "wins"),
    [
        (["4", "so 5", "5.0"], "so 5"),  # equal numbers are one answer, whatever they look like
        (["4", "5"], "4"),  # the first among equals
        (["none", "5", "nothing", "no"], "5"),  # no answer, no vote
        (["none", "no"], "none"),
    ],
)
def test_the_winner(texts, wins):
    assert voting.winner(samples(0, texts), "last_number").text == wins


def test_the_curve_over_the_number_of_votes():
    drawn = [
        *samples(0, ["4", "5", "5"]),
        *samples(1, ["5", "4", "4"]),
        *samples(2, ["none", "none", "5"]),
        *samples(3, ["5", "none", "6"]),
    ]
    found = voting.curve("gsm8k:dev", "zero_shot_cot", drawn[::-1])
    assert [result.prompt for result in found] == [f"zero_shot_cot@{k}" for k in (1, 2, 3)]
    assert [result.score.correct for result in found] == [2, 2, 3]
    assert [result.score.unparsed for result in found] == [1, 1, 0]
    assert {result.score.n for result in found} == {4}
    assert {result.benchmark for result in found} == {"gsm8k:dev"}


def test_every_rule_counts_its_own_votes():
    (only, _) = voting.curve(
        "gsm8k", "p", samples(0, ["The answer is 5, not 4", "The answer is 4"])
    )
    assert (only.scores["last_number"].correct, only.scores["answer_is"].correct) == (0, 1)


def test_unequal_numbers_of_samples_are_refused():
    drawn = [*samples(0, ["5", "5"]), *samples(1, ["5"]), *samples(2, ["5", "5"])]
    with pytest.raises(ValueError, match=r"by their number of samples: \{1: 1, 2: 2\}"):
        voting.curve("gsm8k", "zero_shot_cot", drawn)
    with pytest.raises(ValueError, match="gsm8k has no predictions to vote"):
        voting.curve("gsm8k", "zero_shot_cot", [])


def test_other_versions_of_a_question_and_repeated_samples_are_refused():
    other_gold = [s for s in samples(0, ["5", "5"], gold="6") if s.sample_id == 1]
    with pytest.raises(ValueError, match="gsm8k/test/0 has 2 samples, of 2 different questions"):
        voting.by_question([*samples(0, ["5"]), *other_gold])
    with pytest.raises(ValueError, match="of 1 different questions and 1 different numbers"):
        voting.by_question([*samples(0, ["5"]), *samples(0, ["6"])])
