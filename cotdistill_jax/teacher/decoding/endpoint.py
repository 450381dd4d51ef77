"""An OpenAI-compatible endpoint, asked through the `openai` client; retries by `tenacity`.

The client's own retries are off: a repeated request has to wait for its turn, too, be counted, and end when the run is to stop.
The key is handed to the client and to nothing else; it is cut out of every text that comes back from the endpoint.

| what happens | what follows |
|---|---|
| 408, 409, 425, 429, 5xx, time-out, disconnection, no JSON, no choices, an answer that broke off | repeated after exponential backoff with jitter; `Retry-After` is honoured, by all requests |
| 401, 403, 404, 429 with `insufficient_quota`, a `Retry-After` of more than ten minutes | `EndpointUnusableError`: no other question would fare better |
| another 4xx, a content filter, missing log-probabilities | `RequestFailedError`: this question failed, the run goes on |
"""

import email.utils
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import openai
import tenacity

from cotdistill_jax.teacher.decoding import answers
from cotdistill_jax.teacher.decoding.pace import Pace, Stop
from cotdistill_jax.teacher.decoding.questions import Sampling

MAX_RETRY_AFTER_SECONDS = 600.0
MAX_BACKOFF_SECONDS = 60.0
MAX_MESSAGE_LENGTH = 400
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
_HOPELESS_STATUS = frozenset({401, 403, 404})
_OUT_OF_MONEY = "insufficient_quota"
_FIELDS_OF_MAX_TOKENS = ("max_tokens", "max_completion_tokens")
_NO_KEY = "none"  # servers of one's own ask for no key; the client insists on one


class RequestFailedError(ValueError):
    """A question that got no answer.

    Attributes:
        reason: short name under which it is counted, such as `http_400` or `time_out`.
        usage: tokens that were paid for all the same.
    """

    def __init__(self, reason: str, message: str, usage: answers.Usage | None = None) -> None:
        """Keeps reason and usage beside the message."""
        super().__init__(message)
        self.reason = reason
        self.usage = usage


class EndpointUnusableError(RequestFailedError):
    """An endpoint that will answer no question as things are."""


class Api(Protocol):
    """One of the two ways to ask."""

    def method(self, client: openai.AsyncOpenAI) -> Callable[..., Awaitable[Any]]:
        """Returns the client's method, giving the raw response."""

    def arguments(self, prompt: str, top_k: int) -> dict[str, Any]:
        """Returns the fields that the two APIs name differently."""


class Completions:
    """`/completions`: the prompt as it is."""

    def method(self, client: openai.AsyncOpenAI) -> Callable[..., Awaitable[Any]]:
        """Returns the client's method, giving the raw response."""
        return client.completions.with_raw_response.create

    def arguments(self, prompt: str, top_k: int) -> dict[str, Any]:
        """Returns prompt and number of candidates."""
        return {"prompt": prompt, **({"logprobs": top_k} if top_k else {})}


class Chat:
    """`/chat/completions`: the prompt as one message of the user."""

    def method(self, client: openai.AsyncOpenAI) -> Callable[..., Awaitable[Any]]:
        """Returns the client's method, giving the raw response."""
        return client.chat.completions.with_raw_response.create

    def arguments(self, prompt: str, top_k: int) -> dict[str, Any]:
        """Returns prompt and number of candidates."""
        wanted = {"logprobs": True, "top_logprobs": top_k} if top_k else {}
        return {"messages": [{"role": "user", "content": prompt}], **wanted}


APIS: Mapping[str, Api] = {"completions": Completions(), "chat": Chat()}


class Endpoint:
    """Asks one endpoint, at a pace, and repeats what may succeed on repetition.

    Attributes:
        num_retries: requests repeated so far.
        num_lost: requests that ended without an answer (time-out, disconnection, malformed); they may have been billed.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        api: Api,
        *,
        stop: Stop,
        pace: Pace,
        timeout_seconds: float = 120.0,
        max_attempts: int = 8,
        first_backoff_seconds: float = 1.0,
    ) -> None:
        """Makes the client; nothing is sent yet.

        Args:
            base_url: such as `http://localhost:8000/v1`.
            api_key: None for a server that asks for none.
            api: one of `APIS`.
            stop: ends waiting.
            pace: gives turns.
            timeout_seconds: for one request.
            max_attempts: how often one request is sent at most.
            first_backoff_seconds: wait before the first repetition; doubled every time, plus a random part of it.
        """
        try:
            self._client = openai.AsyncOpenAI(
                base_url=base_url,
                api_key=api_key or _NO_KEY,
                timeout=timeout_seconds,
                max_retries=0,
            )
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"teacher decoding: the client cannot be made for {base_url} with the proxies {_proxies()} of the environment: {error}. "
                "SOCKS proxies need `pip install socksio`; NO_PROXY names hosts to be asked directly."
            ) from error
        self._key = api_key
        self._create = api.method(self._client)
        self._arguments = api.arguments
        self._max_tokens_field = _FIELDS_OF_MAX_TOKENS[0]
        self._stop = stop
        self._pace = pace
        self._max_attempts = max_attempts
        self._backoff = tenacity.wait_exponential(
            multiplier=first_backoff_seconds, max=MAX_BACKOFF_SECONDS
        ) + tenacity.wait_random(0, first_backoff_seconds)
        self.num_retries = 0
        self.num_lost = 0

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(
        self, prompt: str, sampling: Sampling, num_samples: int, seed: int | None, num_tokens: int
    ) -> answers.Answer:
        """Returns the answer to one request.

        Args:
            prompt: whole text.
            sampling: how to draw.
            num_samples: choices asked for.
            seed: of this request.
            num_tokens: most that the request may use, for the rate limit.

        Raises:
            RequestFailedError: refused, unusable, or no answer in `max_attempts` attempts.
            EndpointUnusableError: no request can succeed.
            InterruptedRunError: the run is to stop and the request would have to wait.
        """
        arguments = {
            **self._arguments(prompt, sampling.top_k),
            "model": sampling.model,
            "n": num_samples,
            "temperature": sampling.temperature,
            "extra_body": dict(sampling.extra),
        }
        if sampling.stop:
            arguments["stop"] = list(sampling.stop)
        if seed is not None:
            arguments["seed"] = seed
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_transient),
            stop=tenacity.stop_after_attempt(self._max_attempts),
            wait=self._wait,
            before_sleep=self._count_retry,
            sleep=self._stop.sleep,
            reraise=True,
        )
        try:
            return await retrying(self._send, arguments, sampling, num_tokens)
        except (openai.APIError, answers.AnswerError, answers.ChoiceError) as error:
            raise self.failure(error, num_samples) from None

    async def _send(
        self, arguments: dict[str, Any], sampling: Sampling, num_tokens: int
    ) -> answers.Answer:
        await self._pace.turn(num_tokens)
        try:
            response = await self._create_limited(arguments, sampling.max_tokens)
            return answers.parse(response.http_response.text, sampling.top_k)
        except (openai.APIConnectionError, answers.AnswerError):
            self.num_lost += 1
            raise

    async def _create_limited(self, arguments: dict[str, Any], max_tokens: int) -> Any:
        """Sends a request; an endpoint that wants the limit under the other of its two names gets it so from then on."""
        field, other = self._max_tokens_field, _FIELDS_OF_MAX_TOKENS[1]
        body = {**arguments["extra_body"], field: max_tokens}
        try:
            return await self._create(**{**arguments, "extra_body": body})
        except openai.BadRequestError as error:
            if field == other or other not in str(error):
                raise
            self._max_tokens_field = other
            return await self._create_limited(arguments, max_tokens)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Returns the seconds until the next attempt, and lets all others wait as long as the endpoint says."""
        assert state.outcome is not None
        asked = _asked_to_wait(state.outcome.exception())
        if asked:
            self._pace.pause(asked)
        return max(asked or 0.0, self._backoff(state))

    def _count_retry(self, state: tenacity.RetryCallState) -> None:
        self.num_retries += 1

    def failure(self, error: Exception, num_samples: int) -> RequestFailedError:
        """Returns what an error of a request means for the run, without the key.

        Args:
            error: of the client, or of reading or checking the answer.
            num_samples: choices that were asked for.
        """
        reason = _reason(error)
        message = self.redact(f"{reason}: {error}")[:MAX_MESSAGE_LENGTH]
        usage = error.usage if isinstance(error, answers.ChoiceError) else None
        if _is_hopeless(error):
            return EndpointUnusableError(
                reason, f"{message}. Check --base_url, --model, the key and the account."
            )
        if reason == "http_400" and num_samples > 1:
            message += (
                ". If the endpoint gives one choice per request only, pass --samples_per_request=1."
            )
        return RequestFailedError(reason, message, usage)

    def redact(self, text: str) -> str:
        """Returns `text` without the key, which endpoints repeat in their error messages."""
        return text.replace(self._key, "[key]") if self._key else text


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Returns how long a header `Retry-After` asks to wait, or None where it is missing or unreadable.

    Args:
        value: seconds, or a date.
        now: seconds since the epoch.

    Example: `retry_after_seconds("1.5", now=0.0) == 1.5`, `retry_after_seconds("Thu, 01 Jan 1970 00:01:00 GMT", now=50.0) == 10.0`.
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        date = email.utils.parsedate_tz(value)
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - now)


def _proxies() -> str:
    """Returns the proxies of the environment without users and passwords."""
    found = urllib.request.getproxies().items()
    return ", ".join(f"{name}={value.rpartition('@')[2]}" for name, value in found) or "(none)"


def _asked_to_wait(error: BaseException | None) -> float | None:
    if not isinstance(error, openai.APIStatusError):
        return None
    return retry_after_seconds(error.response.headers.get("retry-after"), time.time())


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return not _is_hopeless(error) and (status in _TRANSIENT_STATUS or status >= 500)
    return isinstance(error, openai.APIConnectionError | answers.AnswerError)


def _is_hopeless(error: BaseException) -> bool:
    if not isinstance(error, openai.APIStatusError):
        return False
    wait = _asked_to_wait(error)
    return (
        error.status_code in _HOPELESS_STATUS
        or error.code == _OUT_OF_MONEY
        or (wait is not None and wait > MAX_RETRY_AFTER_SECONDS)
    )


def _reason(error: Exception) -> str:
    if isinstance(error, openai.APIStatusError):
        if error.code == answers.CONTENT_FILTER:
            return answers.CONTENT_FILTER
        return f"http_{error.status_code}"
    if isinstance(error, openai.APITimeoutError):
        return "time_out"
    if isinstance(error, answers.AnswerError | answers.ChoiceError):
        return error.reason
    return "disconnected"
