import json
import math

import pytest

pytest.importorskip("openai", reason="teacher.decoding needs the extra `teacher`")

from cotdistill_jax.teacher.decoding import answers
from cotdistill_jax.teacher.spelling import Token


def body(*choices, **more):
    return json.dumps({"choices": list(choices), **more})


def legacy(tokens, logs, tops, text=None):
    logprobs = {"tokens": tokens, "token_logprobs": logs, "top_logprobs": tops}
    text = "".join(tokens) if text is None else text
    return {"text": text, "logprobs": logprobs, "finish_reason": "length"}


def test_completions_and_chat_shapes_give_the_same_sample():
    half, quarter = math.log(0.5), math.log(0.25)
    one = legacy(
        ["\n", " 4"], [0.0, quarter], [{"\n": 0.0, "a": -math.inf}, {" 5": half, " 4": quarter}]
    )
    content = [
        {
            "token": "\n",
            "logprob": 0.0,
            "top_logprobs": [{"token": "\n", "logprob": 0.0}, {"token": "a", "logprob": -9999.0}],
        },
        {
            "token": " 4",
            "logprob": quarter,
            "top_logprobs": [{"token": " 5", "logprob": half}, {"token": " 4", "logprob": quarter}],
        },
    ]
    other = {
        "message": {"content": "\n 4"},
        "logprobs": {"content": content},
        "finish_reason": "length",
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    answer = answers.parse(body(one, other, usage=usage), top_k=2)
    assert answer.usage == answers.Usage(3, 2)
    assert answer.samples[0] == answers.Sample(
        "4", ("\n", " 4"), ((("\n", 1.0), ("a", 0.0)), ((" 4", 0.25), (" 5", 0.5))), "length"
    )
    assert answer.samples[1] == answer.samples[0]


def row(token, log_prob, others):
    """The candidates of one step as plain pairs."""
    named = [(Token(name), log) for name, log in others]
    return tuple((t.text, prob) for t, prob in answers.candidate_row(Token(token), log_prob, named))


def test_the_sampled_token_leads_whether_or_not_it_is_among_the_candidates():
    logs = [("a", math.log(0.25)), ("b", math.log(0.5))]
    assert row("c", -9.0, logs) == (("c", math.exp(-9.0)), ("b", 0.5), ("a", 0.25))
    assert row("a", math.log(0.25), logs) == (("a", 0.25), ("b", 0.5))
    assert row(" 4", math.log(0.25), [(" 5", math.log(0.5)), (" 4", math.log(0.25))]) == (
        (" 4", 0.25),
        (" 5", 0.5),
    )


def test_a_rounded_certainty_is_1_and_what_is_no_distribution_gives_no_candidates():
    assert row("a", 1e-7, []) == (("a", 1.0),)
    assert row("a", 0.5, []) == row("a", math.log(0.9), [("b", 0.9)]) == ()
    assert row("a", math.log(0.9), [("b", math.log(0.9))]) == ()


@pytest.mark.parametrize("missing", [None, math.nan, -math.inf])
def test_a_candidate_without_a_number_is_left_out_and_the_others_stay(missing):
    got = row("a", math.log(0.5), [("a", math.log(0.5)), ("b", missing), ("c", math.log(0.25))])
    assert {name: prob for name, prob in got if prob} == {"a": 0.5, "c": 0.25}
    assert row("a", None, [("b", math.log(0.5))]) == (("b", 0.5),)
    assert row("a", None, []) == ()


@pytest.mark.parametrize("logs", [[-0.1640625, -2.265625, -3.046875, -4.6875, -5.0], [-0.5, -0.5]])
def test_probabilities_of_low_precision_are_scaled_to_one(logs):
    assert sum(map(math.exp, logs)) > 1.01
    got = row("0", logs[0], [(str(place), log) for place, log in enumerate(logs)])
    assert sum(prob for _, prob in got) == pytest.approx(1.0)
    assert got[0][1] / got[1][1] == pytest.approx(math.exp(logs[0] - logs[1]))


@pytest.mark.parametrize(
    "broken",
    [
        {"text": "It is", "finish_reason": "error"},
        {"text": "It is", "finish_reason": "abort"},
        {"text": "It is", "finish_reason": None},
        {"text": "It is", "finish_reason": "insufficient_system_resource"},
        {"text": "", "finish_reason": "stop", "error": {"code": 502}},
        {"message": {"content": ""}, "finish_reason": "network_error"},
    ],
)
def test_an_answer_that_broke_off_is_none(broken):
    with pytest.raises(answers.AnswerError, match="broke off") as caught:
        answers.parse(body(broken), top_k=0)
    assert caught.value.reason == "broken_off"
    good = {"text": "It is 4", "finish_reason": "stop"}
    answer = answers.parse(body(broken, good), top_k=0)
    assert ([sample.text for sample in answer.samples], answer.num_unusable) == (["It is 4"], 1)


def test_a_content_filter_is_no_end_and_asking_again_changes_nothing():
    cut = {"message": {"content": "It"}, "finish_reason": "content_filter"}
    with pytest.raises(answers.ChoiceError, match="content filter") as caught:
        answers.parse(body(cut, usage={"prompt_tokens": 9, "completion_tokens": 1}), top_k=0)
    assert (caught.value.reason, caught.value.usage) == ("content_filter", answers.Usage(9, 1))


def test_the_first_answer_is_refused_where_its_tokens_or_numbers_say_nothing():
    ids = legacy(
        ["token_id:1", "token_id:2"], [-0.5, -0.5], [{"token_id:1": -0.5}] * 2, text="It is"
    )
    numbers = legacy([101, 7], [-0.5, -0.5], [{"101": -0.5}, {"7": -0.5}], text="It is")
    for choice in (ids, numbers):
        with pytest.raises(answers.ChoiceError, match=r"spell 0%.*token ids.*'It is'") as caught:
            answers.check(answers.parse(body(choice), top_k=1), top_k=1)
        assert caught.value.reason == "tokens_do_not_spell_text"
    linear = legacy(["It", " is"], [0.5, 0.5], [{"It": 0.5}, {" is": 0.5}])
    with pytest.raises(answers.ChoiceError, match=r"2 of 2 tokens.*no usable log-prob"):
        answers.check(answers.parse(body(linear), top_k=1), top_k=1)
    answers.check(answers.parse(body(legacy(["It"], [-0.5], [{"It": -0.5}])), top_k=1), top_k=1)


def test_text_only_reads_no_log_probabilities():
    assert answers.parse(
        '{"choices": [{"text": "\\n4", "finish_reason": "stop"}]}', top_k=0
    ).samples == (answers.Sample("4", (), (), "stop"),)


def test_missing_and_fewer_candidates_say_what_to_do():
    plain = {"text": "4", "logprobs": None, "finish_reason": "stop"}
    with pytest.raises(
        answers.ChoiceError, match=r"--api=completions or chat.*--top_k=0"
    ) as caught:
        answers.parse(body(plain, usage={"prompt_tokens": 9, "completion_tokens": 1}), top_k=5)
    assert (caught.value.reason, caught.value.usage) == ("missing_log_probs", answers.Usage(9, 1))
    few = legacy(["4"], [0.0], [{"4": 0.0}])
    with pytest.raises(
        answers.ChoiceError, match=r"at most 1 candidates per token, asked for 5.*--top_k=1"
    ) as caught:
        answers.parse(body(few), top_k=5)
    assert caught.value.reason == "too_few_candidates"
    answer = answers.parse(body(plain, legacy(["4"], [0.0], [{"4": 0.0, "5": -9.0}])), top_k=2)
    assert (len(answer.samples), answer.num_unusable, answer.usage) == (1, 1, None)


def test_an_empty_answer_is_an_answer():
    nothing = {"message": {"content": None}, "logprobs": None, "finish_reason": "stop"}
    assert answers.parse(body(nothing), top_k=5).samples == (answers.Sample("", (), (), "stop"),)


def test_halves_of_surrogate_pairs_become_characters_that_parquet_can_hold():
    text = '{"choices": [{"text": "a\\ud83d", "finish_reason": "stop", "logprobs": {"tokens": ["a\\ud83d"], '
    text += '"token_logprobs": [-0.5], "top_logprobs": [{"a\\ud83d": -0.5}]}}]}'
    sample = answers.parse(text, top_k=1).samples[0]
    assert (sample.text, sample.tokens) == ("a\ufffd", ("a\ufffd",))
    assert sample.top_k == ((("a\ufffd", math.exp(-0.5)),),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"choices": [', "is not JSON"),
        ("[]", "no list of choices"),
        ('{"error": {"message": "upstream failed"}}', "no list of choices.*upstream failed"),
        ('{"choices": []}', "empty list of choices"),
    ],
)
def test_what_is_no_answer_is_named(text, message):
    with pytest.raises(answers.AnswerError, match=message):
        answers.parse(text, top_k=5)


@pytest.mark.parametrize(
    "choice",
    [
        "text",
        {"finish_reason": "stop"},
        {"text": 4},
        legacy(["4"], [], [{}]),
        legacy(["4"], [0.0], [[0.0]]),
        {"text": "4", "finish_reason": "stop", "logprobs": {"tokens": ["4"]}},
    ],
)
def test_choices_of_another_form_are_refused(choice):
    with pytest.raises(answers.ChoiceError, match="another form than expected") as caught:
        answers.parse(body(choice), top_k=1)
    assert caught.value.reason == "malformed_choice"
