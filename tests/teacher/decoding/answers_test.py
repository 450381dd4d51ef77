import json
import math

import pytest

pytest.importorskip("openai", reason="teacher.decoding needs the extra `teacher`")

from cotdistill_jax.teacher.decoding import answers


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


def test_the_sampled_token_leads_whether_or_not_it_is_among_the_candidates():
    logs = [("a", math.log(0.25)), ("b", math.log(0.5))]
    assert answers.candidate_row("c", -9.0, logs) == (
        ("c", math.exp(-9.0)),
        ("b", 0.5),
        ("a", 0.25),
    )
    assert answers.candidate_row("a", math.log(0.25), logs) == (("a", 0.25), ("b", 0.5))
    assert answers.candidate_row(
        " 4", math.log(0.25), [(" 5", math.log(0.5)), (" 4", math.log(0.25))]
    ) == (
        (" 4", 0.25),
        (" 5", 0.5),
    )


def test_a_rounded_certainty_is_1_and_more_is_refused():
    assert answers.candidate_row("a", 1e-7, []) == (("a", 1.0),)
    for wrong in (0.5, math.nan):
        with pytest.raises(
            answers.ChoiceError, match=r"'a' has the log-probability (0\.5|nan), expected 0 or less"
        ):
            answers.candidate_row("a", wrong, [])
    with pytest.raises(answers.ChoiceError, match="add up to more than 1"):
        answers.candidate_row("a", math.log(0.9), [("b", math.log(0.9))])


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
    nothing = {"message": {"content": None}, "logprobs": None, "finish_reason": "content_filter"}
    assert answers.parse(body(nothing), top_k=5).samples == (
        answers.Sample("", (), (), "content_filter"),
    )


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
        legacy(["4"], [None], [{"4": 0.0}]),
        legacy(["4"], [0.0], [[0.0]]),
        {"text": "4", "logprobs": {"tokens": ["4"]}},
    ],
)
def test_choices_of_another_form_are_refused(choice):
    with pytest.raises(answers.ChoiceError, match="another form than expected") as caught:
        answers.parse(body(choice), top_k=1)
    assert caught.value.reason == "malformed_choice"
