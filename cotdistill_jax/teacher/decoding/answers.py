"""Answers of an endpoint, as parsed JSON, to samples: plain functions without network.

Log-probabilities come in two shapes, told apart by their keys and accepted from both APIs:

    {"tokens": [...], "token_logprobs": [...], "top_logprobs": [{token: logprob}, ...]}       completions
    {"content": [{"token": ..., "logprob": ..., "top_logprobs": [{"token": ..., "logprob": ...}]}]}   chat

A row of candidates has the sampled token first, then the others from the most to the least likely. `text` loses white space at
its ends (what a model writes after "Let's think step by step" begins with a newline); the tokens keep it.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from cotdistill_jax.teacher.records import MAX_ROW_SUM

# Single precision turns a probability of 1 into log-probabilities a little above 0.
_MAX_LOG_PROB = 1e-3
MALFORMED = "malformed_choice"

Row = tuple[tuple[str, float], ...]


class AnswerError(ValueError):
    """An answer that is not of the form that the API promises; asking again may help."""

    reason = "malformed_answer"


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
    """

    text: str
    tokens: tuple[str, ...]
    top_k: tuple[Row, ...]
    finish_reason: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one request gave.

    Attributes:
        samples: usable choices, at least one.
        usage: None where the endpoint does not say.
        num_unusable: choices without usable log-probabilities beside them.
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
        AnswerError: not JSON, an error report, or no choices.
        ChoiceError: no choice is usable: log-probabilities are missing, have fewer candidates than asked for, or are none.

    Example:
        >>> parse('{"choices": [{"text": "\\n4", "finish_reason": "stop"}]}', top_k=0).samples[0].text
        '4'
    """
    body = _load(text)
    usage = _usage(body)
    samples, errors = [], []
    for choice in body["choices"]:
        try:
            samples.append(_sample(choice, top_k))
        except ChoiceError as error:
            errors.append(error)
    if not samples:
        errors[0].usage = usage
        raise errors[0]
    return Answer(tuple(samples), usage, len(errors))


def candidate_row(token: str, log_prob: float, others: Sequence[tuple[str, float]]) -> Row:
    """Returns the candidates of one step with probabilities: the sampled token, then the others by probability.

    Args:
        token: sampled token.
        log_prob: its natural log-probability.
        others: (token, log-probability) of the most likely tokens, the sampled one among them or not.

    Raises:
        ChoiceError: a number that is no log-probability, or probabilities that add up to more than 1.

    Example:
        >>> candidate_row(" 4", math.log(0.25), [(" 5", math.log(0.5)), (" 4", math.log(0.25))])
        ((' 4', 0.25), (' 5', 0.5))
    """
    row = {token: _probability(token, log_prob)}
    ranked = sorted(
        ((_probability(*other), other[0]) for other in others), key=lambda pair: -pair[0]
    )
    for prob, other in ranked:
        row.setdefault(other, prob)
    if sum(row.values()) > MAX_ROW_SUM:
        raise ChoiceError(
            MALFORMED,
            f"the probabilities {row} of one step add up to more than 1; expected natural log-probabilities of one distribution",
        )
    return tuple(row.items())


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
        text = _whole_characters(text)
        steps = list(_steps(choice.get("logprobs"))) if top_k else []
        tokens = tuple(_whole_characters(token) for token, _, _ in steps)
        rows = tuple(candidate_row(t, lp, o) for t, (_, lp, o) in zip(tokens, steps, strict=True))
    except (KeyError, TypeError, AttributeError) as error:
        raise ChoiceError(
            MALFORMED,
            f"a choice of the answer has another form than expected ({type(error).__name__} {error}): {str(choice)[:200]}",
        ) from error
    if text and top_k:
        _check_candidates(steps, top_k)
    return Sample(text.strip(), tokens, rows, str(choice.get("finish_reason")))


def _steps(logprobs: Any) -> Iterator[tuple[str, float, list[tuple[str, float]]]]:
    """Yields (token, log-probability, candidates) of both shapes of log-probabilities; nothing where there are none."""
    if not logprobs:
        return
    if "content" in logprobs:
        for step in logprobs["content"] or ():
            others = [
                (_whole_characters(o["token"]), o["logprob"]) for o in step["top_logprobs"] or ()
            ]
            yield step["token"], step["logprob"], others
        return
    tokens = logprobs["tokens"] or ()
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(logprobs["token_logprobs"]) == len(tops):
        raise TypeError("lists of log-probabilities differ in length")
    for token, log_prob, top in zip(tokens, logprobs["token_logprobs"], tops, strict=True):
        yield token, log_prob, [(_whole_characters(t), lp) for t, lp in (top or {}).items()]


def _check_candidates(
    steps: Sequence[tuple[str, float, list[tuple[str, float]]]], top_k: int
) -> None:
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


def _probability(token: str, log_prob: float) -> float:
    if log_prob > _MAX_LOG_PROB or math.isnan(log_prob):
        raise ChoiceError(
            MALFORMED, f"token {token!r} has the log-probability {log_prob}, expected 0 or less"
        )
    return min(1.0, math.exp(log_prob))


def _whole_characters(text: str) -> str:
    """Returns `text` with U+FFFD for halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
