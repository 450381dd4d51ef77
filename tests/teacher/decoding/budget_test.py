import pytest

pytest.importorskip("openai", reason="teacher.decoding needs the extra `teacher`")

from cotdistill_jax.teacher import decoding
from cotdistill_jax.teacher.decoding import budget


def question(number, prompt="abcdef"):
    return decoding.PromptedQuestion(f"q{number}", "?", "4", prompt)


def test_prices_and_token_bounds():
    assert decoding.Prices(2.0, 4.0).cost(decoding.Usage(500_000, 1_000_000)) == 5.0
    assert budget.most_tokens("abcdef", 2, 10) == decoding.Usage(3, 20)
    with pytest.raises(ValueError, match="prices must be 0 or more"):
        decoding.Prices(-1.0, 0.0)


def test_the_estimate_counts_every_request_of_a_question():
    missing = [(question(0), 5), (question(1), 0), (question(2), 2)]
    assert decoding.estimate(missing, samples_per_request=2, max_tokens=10) == decoding.Estimate(
        questions=2, samples=7, requests=4, usage=decoding.Usage(12, 70)
    )


def test_requests_in_flight_count_until_they_are_settled():
    kept = decoding.Budget(decoding.Prices(1e6, 1e6), cap=10.0, spent=decoding.Usage(2, 2))
    with kept.reserve(decoding.Usage(1, 3)):
        with (
            pytest.raises(budget.SpendCapError, match="above the cap of 10"),
            kept.reserve(decoding.Usage(0, 3)),
        ):
            pytest.fail("reserved above the cap")
        with kept.reserve(decoding.Usage(0, 2)):
            assert kept.cost == 4.0  # what is reserved is not spent
        kept.spent += decoding.Usage(1, 1)
    with kept.reserve(decoding.Usage(0, 4)):
        assert kept.cost == 6.0


def test_a_cap_needs_prices():
    with pytest.raises(ValueError, match="needs prices"):
        decoding.Budget(cap=1.0)
    assert decoding.Budget().cost is None


def test_every_request_has_a_seed_of_its_own():
    sampling = decoding.Sampling("m", seed=1)
    seeds = {sampling.request_seed(q, s) for q in ("q0", "q1") for s in (0, 1)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sampling.request_seed("q0", 0) != decoding.Sampling("m", seed=2).request_seed("q0", 0)
    assert decoding.Sampling("m").request_seed("q0", 0) is None
    with pytest.raises(ValueError, match="temperature -1"):
        decoding.Sampling("m", temperature=-1)
