import asyncio
import json
import math
import re
import time
from collections import Counter

import pytest

pytest.importorskip("openai", reason="teacher.decoding needs the extra `teacher`")

from cotdistill_jax import teacher
from cotdistill_jax.teacher import decoding

KEY = "sk-secret-of-this-test"


def questions(number):
    return [decoding.PromptedQuestion(f"q{n}", f"{n}?", "4", f"Q: {n}?\nA:") for n in range(number)]


def decode(
    folder, server, asked, *, api="completions", sampling=None, cap=None, stop_after=None, **changes
):
    """Runs over the questions in this process; returns the run and the totals."""
    names = ("requests_per_minute", "tokens_per_minute")
    limits = {name: changes.pop(name) for name in names if name in changes}
    attempts = changes.pop("max_attempts", 4)
    timeout = changes.pop("timeout_seconds", 5.0)
    plan = decoding.Plan(**{"num_samples": 3, "concurrency": 4, "teacher": "m", **changes})
    sampling = sampling or decoding.Sampling("m", top_k=2, max_tokens=10)
    found = decoding.Finished(folder)
    prices = decoding.Prices(1e6, 1e6) if cap else None
    budget = decoding.Budget(prices, cap, decoding.usage_of(found.totals))

    async def main(store):
        stop = decoding.Stop()
        endpoint = decoding.Endpoint(
            server.url,
            KEY,
            decoding.APIS[api],
            stop=stop,
            pace=decoding.Pace(stop, **limits),
            timeout_seconds=timeout,
            max_attempts=attempts,
            first_backoff_seconds=0.01,
        )
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, stop.set)
        run = decoding.Run(endpoint, store, budget, sampling, plan, stop)
        await run.answer(asked)
        await endpoint.close()
        return run

    with decoding.Store(folder, config=sampling.config(), inputs={}, records_per_shard=5) as store:
        run = asyncio.run(main(store))
        if run.stopped in (None, decoding.SPEND_CAP):
            store.finish(run.dropped(asked))
        return run, dict(store.totals)


def per_question(folder, **options):
    """Sample numbers by question; reading checks that none is there twice."""
    found = {}
    for record in teacher.read_records(folder, **options):
        found.setdefault(record.question_id, []).append(record.sample_id)
    return found


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("api", "path"), [("completions", "/v1/completions"), ("chat", "/v1/chat/completions")]
)
def test_every_question_gets_its_samples_with_probabilities(tmp_path, server, api, path):
    sampling = decoding.Sampling(
        "m", 0.5, 10, top_k=2, stop=("\nQ:",), seed=3, extra={"min_p": 0.1}
    )
    run, totals = decode(
        tmp_path, server, questions(7), api=api, sampling=sampling, samples_per_request=2
    )
    assert run.stopped is None
    assert per_question(tmp_path) == {f"q{n}": [0, 1, 2] for n in range(7)}
    assert manifest(tmp_path)["complete"] is True
    assert manifest(tmp_path)["counts"] == {"in": 21, "out": 21, "dropped": {}}
    assert totals == {
        "requests": 14,
        "samples": 21,
        "finish_stop": 21,
        "prompt_tokens": 98,
        "completion_tokens": 105,
    }
    record = next(teacher.read_records(tmp_path))
    assert (record.text, record.tokens) == ("It is 4", ("\n", "It", " is", " 4", "\n"))
    assert [name for name, _ in record.top_k[3]] == [" 4", " 5"]
    assert [prob for _, prob in record.top_k[3]] == pytest.approx([0.25, 0.5], abs=1e-15)
    assert record.label is None
    assert record.decode_settings["finish_reason"] == "stop"
    asked = server.requests
    assert {request["path"] for request in asked} == {path}
    assert Counter(request["n"] for request in asked) == {2: 7, 1: 7}
    assert all(request["stop"] == ["\nQ:"] and request["min_p"] == 0.1 for request in asked)
    assert len({request["seed"] for request in asked}) == 14
    if api == "chat":
        assert (asked[0]["logprobs"], asked[0]["top_logprobs"]) == (True, 2)
        assert asked[0]["messages"] == [{"role": "user", "content": "Q: 0?\nA:"}]
    else:
        assert (asked[0]["logprobs"], asked[0]["prompt"]) == (2, "Q: 0?\nA:")


def test_text_only_asks_for_no_log_probabilities(tmp_path, server):
    server.faults.extend(["without_logprobs"] * 2)
    decode(tmp_path, server, questions(2), sampling=decoding.Sampling("m", top_k=0))
    assert {(r.text, r.tokens) for r in teacher.read_records(tmp_path)} == {("It is 4", ())}
    assert not any("logprobs" in request for request in server.requests)


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        ("429", 0),
        ("500", 0),
        ("cut", 1),
        ("malformed", 1),
        ("html", 1),
        ("error_in_200", 1),
        ("no_choices", 1),
        ("broken_off", 1),
        ("slowly", 1),
    ],
)
def test_what_may_pass_is_repeated_and_counted(tmp_path, server, fault, lost):
    server.faults.extend([fault, fault])
    timeout = 0.2 if fault == "slowly" else 5.0
    run, totals = decode(tmp_path, server, questions(2), timeout_seconds=timeout)
    assert run.stopped is None
    assert per_question(tmp_path) == {"q0": [0, 1, 2], "q1": [0, 1, 2]}
    assert len(server.requests) == 4
    assert totals["retries"] == 2
    assert totals.get("requests_without_answer", 0) == 2 * lost
    assert totals["requests"] == 2


def test_retry_after_is_honoured_by_everybody(tmp_path, server):
    server.faults.extend(["well", "429_with_retry_after"])
    server.delay = 0.03
    decode(tmp_path, server, questions(20), concurrency=2)
    refused = server.times[1]
    early = [t for t in server.times[3:] if t < refused + 0.3]
    assert len(early) <= 2, "the other worker may have asked before the refusal came in, no later"
    assert len(server.requests) == 21


def test_backoff_grows(tmp_path, server):
    server.broken["Q: 0?\nA:"] = "500"
    decode(tmp_path, server, questions(1), max_attempts=5)
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    for gap, least in zip(gaps, (0.01, 0.02, 0.04, 0.08), strict=True):
        assert gap >= least
    assert manifest(tmp_path)["counts"]["dropped"] == {"http_500": 3}


def test_fewer_choices_than_asked_are_kept_and_only_the_rest_is_asked_for(tmp_path, server):
    server.faults.extend(["fewer", "one_without_logprobs", "more"])
    _, totals = decode(tmp_path, server, questions(1), num_samples=6)
    assert [request["n"] for request in server.requests] == [6, 5, 1]
    assert per_question(tmp_path) == {"q0": [0, 1, 2, 3, 4, 5]}
    assert (totals["unusable_choices"], totals["surplus_choice"]) == (1, 1)
    assert manifest(tmp_path)["counts"] == {"in": 7, "out": 6, "dropped": {"surplus_choice": 1}}


def test_an_endpoint_that_gives_one_choice_whatever_is_asked(tmp_path, server):
    server.faults.extend(["fewer"] * 12)
    decode(tmp_path, server, questions(4))
    assert per_question(tmp_path) == {f"q{n}": [0, 1, 2] for n in range(4)}
    assert len(server.requests) == 12


def test_a_failing_question_blocks_nothing_and_comes_last_next_time(tmp_path, server):
    server.broken = {"Q: 0?\nA:": "400", "Q: 2?\nA:": "500"}
    run, totals = decode(tmp_path, server, questions(4), max_attempts=2)
    assert run.stopped is None
    assert per_question(tmp_path) == {"q1": [0, 1, 2], "q3": [0, 1, 2]}
    assert manifest(tmp_path)["counts"] == {
        "in": 12,
        "out": 6,
        "dropped": {"http_400": 3, "http_500": 3},
    }
    failures = decoding.Finished(tmp_path).failures
    assert "this prompt is too long" in failures["q0"].message
    assert "--samples_per_request=1" in failures["q0"].message
    server.broken.clear()
    server.requests.clear()
    run, totals = decode(tmp_path, server, questions(5), concurrency=1)
    assert [request["prompt"] for request in server.requests] == [f"Q: {n}?\nA:" for n in (4, 0, 2)]
    assert per_question(tmp_path) == {f"q{n}": [0, 1, 2] for n in (1, 3, 4, 0, 2)}
    assert totals["requests"] == 2 + 2 + 3
    assert decoding.Finished(tmp_path).failures == {}
    assert manifest(tmp_path)["counts"]["dropped"] == {}


def test_more_samples_ask_for_the_rest_only(tmp_path, server):
    decode(tmp_path, server, questions(3), num_samples=2)
    decode(tmp_path, server, questions(3), num_samples=2)
    assert len(server.requests) == 3
    decode(tmp_path, server, questions(4), num_samples=5)
    assert [request["n"] for request in server.requests[3:]].count(3) == 3
    assert per_question(tmp_path) == {f"q{n}": [0, 1, 2, 3, 4] for n in range(4)}


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("401", "http_401", r"incorrect key: Bearer \[key\].*Check --base_url"),
        ("no_money", "http_429", "exceeded your quota"),
        ("429_for_an_hour", "http_429", "come back later"),
        ("without_logprobs", "missing_log_probs", "--top_k=0"),
    ],
)
def test_what_is_wrong_with_all_requests_costs_one(tmp_path, server, fault, reason, message):
    server.faults.extend([fault] * 50)
    run, totals = decode(tmp_path, server, questions(20))
    assert len(server.requests) == 1
    assert run.stopped == reason
    assert run.dropped(questions(20)) == {reason: 60}
    assert re.search(message, run.message)
    assert manifest(tmp_path)["complete"] is False
    paid = {"prompt_tokens": 7, "completion_tokens": 15} if fault == "without_logprobs" else {}
    assert {name: totals[name] for name in totals if name.endswith("_tokens")} == paid


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("token_ids", "tokens_do_not_spell_text", "token ids.*return-tokens-as-token-ids"),
        ("no_numbers", "no_log_probabilities", "5 of 5 tokens"),
    ],
)
def test_a_first_answer_that_would_lose_the_probabilities_ends_the_run(
    tmp_path, server, fault, reason, message
):
    server.faults.extend([fault] * 50)
    run, totals = decode(tmp_path, server, questions(20))
    assert (run.stopped, len(server.requests)) == (reason, 1)
    assert re.search(message, run.message)
    assert totals["completion_tokens"] == 15
    # Later answers of that kind are kept, as they are paid for, and counted.
    server.faults.clear()
    server.faults.extend(["well", fault])
    run, totals = decode(tmp_path, server, questions(3))
    assert run.stopped is None and totals["samples"] == 9
    lost = "samples_with_other_tokens" if fault == "token_ids" else "tokens_without_probabilities"
    assert totals[lost] == (3 if fault == "token_ids" else 15)
    assert "5 tokens spell 100% of the text" in run.first_answer


def test_a_content_filter_costs_its_question_and_nothing_else(tmp_path, server):
    server.broken["Q: 1?\nA:"] = "filtered"
    run, _ = decode(tmp_path, server, questions(3))
    assert run.stopped is None
    assert manifest(tmp_path)["counts"]["dropped"] == {"content_filter": 3}


def test_an_endpoint_that_wants_max_completion_tokens_gets_them(tmp_path, server):
    server.faults.extend(["max_completion_tokens"] * 9)
    run, totals = decode(tmp_path, server, questions(3), concurrency=1)
    assert run.stopped is None and totals["samples"] == 9
    fields = ["max_tokens" if "max_tokens" in r else "completion" for r in server.requests]
    assert fields == ["max_tokens", "completion", "completion", "completion"]
    assert {r["max_completion_tokens"] for r in server.requests[1:]} == {10}


def test_too_few_candidates_are_refused_at_once(tmp_path, server):
    run, _ = decode(tmp_path, server, questions(9), sampling=decoding.Sampling("m", top_k=5))
    assert (run.stopped, len(server.requests)) == ("too_few_candidates", 1)
    assert "asked for 5. Accept that with --top_k=2" in run.message


def test_missing_log_probs_later_on_fail_their_question_only(tmp_path, server):
    server.broken["Q: 1?\nA:"] = "without_logprobs"
    run, totals = decode(tmp_path, server, questions(3))
    assert run.stopped is None
    assert manifest(tmp_path)["counts"]["dropped"] == {"missing_log_probs": 3}
    assert totals["completion_tokens"] == 45


def test_an_endpoint_that_is_down_is_given_up(tmp_path, server):
    server.faults.extend(["500"] * 100)
    run, _ = decode(tmp_path, server, questions(30), max_attempts=2, max_failures_in_a_row=3)
    assert (run.stopped, len(server.requests)) == (decoding.FAILURES_IN_A_ROW, 6)
    assert "3 questions failed one after another, the last with http_500" in run.message


def test_concurrency_is_reached_and_never_passed(tmp_path, server):
    server.delay = 0.05
    decode(tmp_path, server, questions(13), concurrency=3)
    assert server.most_running == 3


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1200}, {"tokens_per_minute": 39_600}])
def test_rate_limits_space_the_requests(tmp_path, server, limits):
    # 33 tokens per request (3 of the prompt, 3 x 10 of the answer): both limits mean one request in 0.05 s.
    begin = time.monotonic()
    decode(tmp_path, server, questions(9), concurrency=8, **limits)
    assert len(server.requests) == 9
    assert time.monotonic() - begin >= 8 * 0.05


def test_the_spend_cap_stops_cleanly_and_a_higher_one_goes_on(tmp_path, server):
    # A request costs 22 (7 + 3 x 5) and may cost 33 (3 + 3 x 10).
    run, totals = decode(tmp_path, server, questions(10), cap=100.0)
    assert run.stopped == decoding.SPEND_CAP
    assert totals["prompt_tokens"] + totals["completion_tokens"] == 22 * 4
    assert manifest(tmp_path)["complete"] is True
    assert manifest(tmp_path)["counts"] == {"in": 30, "out": 12, "dropped": {"spend_cap": 18}}
    run, totals = decode(tmp_path, server, questions(10), cap=1000.0)
    assert (run.stopped, totals["samples"], len(server.requests)) == (None, 30, 10)


def test_requests_in_flight_cannot_break_the_cap(tmp_path, server):
    server.delay = 0.05
    run, totals = decode(tmp_path, server, questions(20), cap=150.0, concurrency=8)
    assert run.stopped == decoding.SPEND_CAP
    assert server.most_running > 1
    assert 150 - 33 < totals["prompt_tokens"] + totals["completion_tokens"] <= 150


def test_usage_is_counted_where_the_endpoint_does_not_say(tmp_path, server):
    server.faults.append("without_usage")
    _, totals = decode(tmp_path, server, questions(1))
    assert totals["requests_without_usage"] == 1
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (3, 15)


def test_stopping_finishes_what_is_under_way_and_nothing_is_lost(tmp_path, server):
    server.delay = 0.1
    run, totals = decode(tmp_path, server, questions(40), stop_after=0.35)
    assert run.stopped == decoding.INTERRUPTED
    assert 0 < totals["samples"] == server.num_answered < 120
    assert totals["requests"] == len(server.requests)
    assert manifest(tmp_path)["complete"] is False
    server.delay = 0.0
    run, totals = decode(tmp_path, server, questions(40))
    assert per_question(tmp_path) == {f"q{n}": [0, 1, 2] for n in range(40)}
    assert server.num_answered == totals["samples"] == 120


def test_stopping_ends_a_wait_at_once(tmp_path, server):
    server.faults.extend(["well", *["429_with_retry_after"] * 9])
    begin = time.monotonic()
    run, _ = decode(tmp_path, server, questions(5), stop_after=0.1, requests_per_minute=1)
    assert time.monotonic() - begin < 2
    assert run.stopped == decoding.INTERRUPTED


def test_the_key_is_sent_and_never_written(tmp_path, server):
    server.broken["Q: 1?\nA:"] = "400_with_key"
    decode(tmp_path, server, questions(3))
    assert {request["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert decoding.Finished(tmp_path).failures["q1"].message.count("Bearer [key]") == 1
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes(), path


def test_plans_without_sense_are_refused():
    with pytest.raises(ValueError, match="'concurrency': 0"):
        decoding.Plan(num_samples=1, concurrency=0)
    with pytest.raises(ValueError, match="must be positive"):
        decoding.Pace(decoding.Stop(), requests_per_minute=0)


def test_probabilities_are_those_of_the_endpoint(tmp_path, server):
    decode(tmp_path, server, questions(1), num_samples=1)
    (record,) = teacher.read_records(tmp_path)
    assert record.top_k[0] == (("\n", math.exp(math.log(0.75))), ("?", math.exp(math.log(0.125))))
