"""Answers of an endpoint, as parsed JSON, to samples: plain functions without network.

Log-probabilities come in two shapes, told apart by their keys and accepted from both APIs:

    {"tokens": [...], "token_logprobs": [...], "top_logprobs": [{token: logprob}, ...]}       completions
    {"content": [{"token": ..., "logprob": ..., "top_logprobs": [{"token": ..., "logprob": ...}]}]}   chat

A row of candidates has the sampled token first, then the others from the most to the least likely. `text` loses white space at
its ends (what a model writes after "Let's think step by step" begins with a newline); the tokens keep it. Tokens are read as the server
spells them (`teacher.spelling`) and kept as text.

A sample that was paid for is kept with what can be used of it: a candidate without a number is left out, probabilities of low precision
that add up to more than 1 are scaled, a step whose numbers are no log-probabilities has no candidates. `check` says what is wrong with
the first answer, before more is asked for.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from cotdistill_jax import files
from cotdistill_jax.teacher import spelling
from cotdistill_jax.teacher.records import MAX_ROW_SUM
from cotdistill_jax.teacher.spelling import Row, Token

# Low precision turns a probability of 1 into log-probabilities a little above 0; more is no log-probability.
_MAX_LOG_PROB = 0.01
# bfloat16 and float8 round log-probabilities so that a distribution adds up to this at most; more is no distribution.
_MAX_ROUNDED_SUM = 1.25
# Less of a first answer than this, and the endpoint spells its tokens in a way that is not understood.
_MIN_COVERED = 0.8
_MIN_WITH_PROBABILITIES = 0.5
MALFORMED = "malformed_choice"
CONTENT_FILTER = "content_filter"
BROKEN_OFF = "broken_off"
# What servers write where an answer broke off; `stop`, `length` and names of their own for them are ends.
_BROKEN_OFF = re.compile(
    r"err|abort|cancel|fail|time.?out|overload|insufficient|interrupt|network|unavailable|disconnect|incomplete",
    re.IGNORECASE,
)


class AnswerError(ValueError):
    """An answer that is not of the form that the API promises, or broke off; asking again may help.

    Attributes:
        reason: short name under which it is counted.
    """

    def __init__(self, message: str, reason: str = "malformed_answer") -> None:
        """Keeps the reason beside the message."""
        super().__init__(message)
        self.reason = reason


class ChoiceError(ValueError):
    """A choice without the log-probabilities that were asked for; asking again costs money and changes nothing.

    Attributes:
        reason: short name under which it is counted.
        usage: tokens that the answer cost.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keeps the reason beside the message."""
        super().__init__(message)
        self.reason = reason
        self.usage: Usage | None = None


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens that were paid for, or that may have to be.

    Attributes:
        prompt_tokens: read by the teacher.
        completion_tokens: written by it.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Self) -> "Usage":
        """Returns the sum of both."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    @property
    def total(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


@dataclasses.dataclass(frozen=True)
class Sample:
    """One choice of an answer.

    Attributes:
        text: without white space at its ends.
        tokens: as sampled; empty where no log-probabilities were asked for.
        top_k: per token its candidates with probabilities, the sampled one first.
        finish_reason: what the endpoint says, such as `stop` or `length`.
        spelling: how the endpoint spells its tokens, see `teacher.spelling`.
        covered: share of the text's characters that the tokens spell, in [0, 1].
    """

    text: str
    tokens: tuple[str, ...]
    top_k: tuple[Row, ...]
    finish_reason: str
    spelling: str = "text"
    covered: float = 1.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one request gave.

    Attributes:
        samples: usable choices, at least one.
        usage: None where the endpoint does not say.
        num_unusable: choices beside them that broke off or lack log-probabilities.
    """

    samples: tuple[Sample, ...]
    usage: Usage | None
    num_unusable: int


def parse(text: str, top_k: int) -> Answer:
    r"""Returns the samples of an endpoint's answer.

    Args:
        text: the body of the response.
        top_k: candidates that were asked for; 0 reads no log-probabilities.

    Raises:
        AnswerError: not JSON, an error report, no choices, or a choice that broke off.
        ChoiceError: no choice is usable: another form, log-probabilities missing or with fewer candidates than asked for, or a content
            filter.

    Example:
        >>> parse('{"choices": [{"text": "\\n4", "finish_reason": "stop"}]}', top_k=0).samples[0].text
        '4'
    """
    body = _load(text)
    usage = _usage(body)
    samples: list[Sample] = []
    errors: list[AnswerError | ChoiceError] = []
    for choice in body["choices"]:
        try:
            samples.append(_sample(choice, top_k))
        except (AnswerError, ChoiceError) as error:
            errors.append(error)
    if not samples:
        first = errors[0]
        if isinstance(first, ChoiceError):
            first.usage = usage
        raise first
    return Answer(tuple(samples), usage, len(errors))


def check(answer: Answer, top_k: int) -> None:
    """Checks a first answer end to end: tokens spell the text, and most of them have probabilities.

    Args:
        answer: with the samples to check.
        top_k: candidates that were asked for; 0 checks nothing.

    Raises:
        ChoiceError: the endpoint answers in a form that leaves the teacher's probabilities unused.
    """
    try:
        for sample in answer.samples if top_k else ():
            _check_use(sample)
    except ChoiceError as error:
        error.usage = answer.usage
        raise


def _check_use(sample: Sample) -> None:
    if sample.covered < _MIN_COVERED:
        wrong = spelling.kind(sample.tokens, sample.text)
        raise ChoiceError(
            "tokens_do_not_spell_text",
            f"the endpoint's tokens spell {sample.covered:.0%} of its text (they are {wrong or 'another text'}): text "
            f"{sample.text[:60]!r}, tokens {list(sample.tokens[:6])}. Let the server return tokens as text (for vLLM without "
            "--return-tokens-as-token-ids), or keep texts only with --top_k=0.",
        )
    known = sum(bool(row) for row in sample.top_k)
    if known < _MIN_WITH_PROBABILITIES * len(sample.tokens):
        raise ChoiceError(
            "no_log_probabilities",
            f"{len(sample.tokens) - known} of {len(sample.tokens)} tokens of the first answer have no usable log-probabilities; "
            "expected natural log-probabilities, 0 or less, of one distribution each. Use another API (--api), or keep texts only "
            "with --top_k=0.",
        )


def candidate_row(
    token: Token, log_prob: float | None, others: Sequence[tuple[Token, float | None]]
) -> tuple[tuple[Token, float], ...]:
    """Returns the candidates of one step with probabilities: the sampled token, then the others by probability.

    A candidate without a log-probability is left out; where the sampled token's is missing, too, the row is what the others say. A row
    that adds up to more than 1 by rounding is scaled to 1; one that is no distribution at all is empty.

    Args:
        token: sampled token.
        log_prob: its natural log-probability.
        others: (token, log-probability) of the most likely tokens, the sampled one among them or not.

    Example:
        >>> candidate_row(Token(" 4"), math.log(0.25), [(Token(" 5"), math.log(0.5)), (Token(" 4"), math.log(0.25))])
        ((Token(text=' 4', raw=None), 0.25), (Token(text=' 5', raw=None), 0.5))
    """
    known = [(name, prob) for name, log in others if (prob := _probability(log)) is not None]
    known.sort(key=lambda pair: -pair[1])
    own = _probability(log_prob)
    row = dict(reversed([*([(token, own)] if own is not None else []), *known]))
    total = sum(row.values())
    if total > _MAX_ROUNDED_SUM or any(
        _is_no_log_prob(log) for log in (log_prob, *(o[1] for o in others))
    ):
        return ()
    scale = total if total > MAX_ROW_SUM else 1.0
    order = sorted(row, key=lambda name: (name != token, -row[name]))
    return tuple((name, row[name] / scale) for name in order)


def _load(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise AnswerError(f"the answer is not JSON ({error}): {text[:80]!r}") from error
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        raise AnswerError(f"the answer has no list of choices: {text[:200]!r}")
    if not body["choices"]:
        raise AnswerError("the answer has an empty list of choices")
    return body


def _usage(body: Mapping[str, Any]) -> Usage | None:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (isinstance(prompt, int) and isinstance(completion, int)):
        return None
    return Usage(prompt, completion)


def _sample(choice: Any, top_k: int) -> Sample:
    try:
        # A chat model that only reasoned, or refused, has null for its content.
        text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
        text = files.whole_characters(text)
        finish_reason = _end(choice, text)
        steps = list(_steps(choice.get("logprobs"))) if top_k else []
        rows = [candidate_row(*step) for step in steps]
    except (KeyError, TypeError, AttributeError) as error:
        raise ChoiceError(
            MALFORMED,
            f"a choice of the answer has another form than expected ({type(error).__name__} {error}): {str(choice)[:200]}",
        ) from error
    if text and top_k:
        _check_candidates(steps, top_k)
    reading = spelling.respell([token for token, _, _ in steps], rows, text)
    return Sample(
        text.strip(), reading.tokens, reading.rows, finish_reason, reading.spelling, reading.covered
    )


def _end(choice: Mapping[str, Any], text: str) -> str:
    """Returns why a choice ended.

    Raises:
        AnswerError: it broke off: an error beside it, a reason that says so, or none.
        ChoiceError: a content filter cut it; asking again changes nothing.
    """
    reason = choice.get("finish_reason")
    if choice.get("error") or not reason or _BROKEN_OFF.search(str(reason)):
        raise AnswerError(
            f"an answer broke off (finish_reason {reason!r}, {choice.get('error') or 'no error given'}), text so far {text[-80:]!r}",
            BROKEN_OFF,
        )
    if reason == CONTENT_FILTER:
        raise ChoiceError(
            CONTENT_FILTER,
            f"the endpoint's content filter cut the answer after {text[-80:]!r}; the question stays without this sample.",
        )
    return str(reason)


Step = tuple[Token, float | None, list[tuple[Token, float | None]]]


def _steps(logprobs: Any) -> Iterator[Step]:
    """Yields (token, log-probability, candidates) of both shapes of log-probabilities; nothing where there are none."""
    if not logprobs:
        return
    if "content" in logprobs:
        for step in logprobs["content"] or ():
            others = [(_token(other), other["logprob"]) for other in step["top_logprobs"] or ()]
            yield _token(step), step["logprob"], others
        return
    tokens = logprobs["tokens"] or ()
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(logprobs["token_logprobs"]) == len(tops):
        raise TypeError("lists of log-probabilities differ in length")
    for token, log_prob, top in zip(tokens, logprobs["token_logprobs"], tops, strict=True):
        others = [(Token(_token_text(t)), lp) for t, lp in (top or {}).items()]
        yield Token(_token_text(token)), log_prob, others


def _token(step: Mapping[str, Any]) -> Token:
    """Returns a token of the chat API with its bytes, where they are given."""
    raw = step.get("bytes")
    return Token(_token_text(step["token"]), None if raw is None else bytes(raw))


def _check_candidates(steps: Sequence[Step], top_k: int) -> None:
    if not steps:
        raise ChoiceError(
            "missing_log_probs",
            "the endpoint answered without log-probabilities. Use a model and an API (--api=completions or chat) that give them, or "
            "keep texts only with --top_k=0.",
        )
    got = max(len(others) for _, _, others in steps)
    if got < top_k:
        raise ChoiceError(
            "too_few_candidates",
            f"the endpoint gave at most {got} candidates per token, asked for {top_k}. Accept that with --top_k={got}, or raise the "
            "endpoint's limit.",
        )


def _probability(log_prob: float | None) -> float | None:
    """Returns the probability of a log-probability; None where there is none, as servers write for minus infinity."""
    if log_prob is None or math.isnan(log_prob):
        return None
    return math.exp(min(log_prob, 0.0))


def _is_no_log_prob(number: float | None) -> bool:
    return number is not None and number > _MAX_LOG_PROB


def _token_text(token: str | int) -> str:
    """Returns a token as text; a number, as servers give that return ids, as it is written."""
    return str(token) if isinstance(token, int) else files.whole_characters(token)
