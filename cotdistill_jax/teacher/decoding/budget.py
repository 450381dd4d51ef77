"""What a run may cost: an estimate before it starts, and a cap that no request in flight can break.

Before it is asked, a question's tokens are not known, so everything here is an upper bound: a prompt has at most one token per
three bytes (English has one per four or five), an answer as many as `max_tokens`.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

from cotdistill_jax.teacher.decoding.answers import Usage
from cotdistill_jax.teacher.decoding.questions import PromptedQuestion

_BYTES_PER_TOKEN = 3
_PRICED_TOKENS = 1_000_000


class SpendCapError(RuntimeError):
    """Raised where the next request might cost more than is left."""


@dataclasses.dataclass(frozen=True)
class Prices:
    """Prices in any one currency, per million tokens.

    Attributes:
        prompt: of tokens read.
        completion: of tokens written.
    """

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        """Raises ValueError for a negative price."""
        if self.prompt < 0 or self.completion < 0:
            raise ValueError(f"teacher decoding: prices must be 0 or more, got {self}")

    def cost(self, usage: Usage) -> float:
        """Returns the price of some tokens: `Prices(2.0, 4.0).cost(Usage(500_000, 1_000_000)) == 5.0`."""
        tokens = self.prompt * usage.prompt_tokens + self.completion * usage.completion_tokens
        return tokens / _PRICED_TOKENS


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run would ask for at most.

    Attributes:
        questions: that lack samples.
        samples: that they lack.
        requests: without repetitions.
        usage: tokens at most.
    """

    questions: int
    samples: int
    requests: int
    usage: Usage


def most_tokens(prompt: str, num_samples: int, max_tokens: int) -> Usage:
    """Returns the most tokens of one request: `most_tokens("abcdef", 2, 10) == Usage(3, 20)`."""
    return Usage(len(prompt.encode()) // _BYTES_PER_TOKEN + 1, num_samples * max_tokens)


def estimate(
    missing: Iterable[tuple[PromptedQuestion, int]], samples_per_request: int, max_tokens: int
) -> Estimate:
    """Returns what asking for the missing samples takes at most.

    Args:
        missing: questions and how many samples each lacks, 0 or more.
        samples_per_request: most choices in a request.
        max_tokens: most tokens of an answer.
    """
    questions = samples = requests = 0
    usage = Usage()
    for question, number in missing:
        needed = -(-number // samples_per_request)
        prompt_tokens = most_tokens(question.prompt, 0, max_tokens).prompt_tokens
        usage += Usage(needed * prompt_tokens, number * max_tokens)
        questions += number > 0
        samples += number
        requests += needed
    return Estimate(questions, samples, requests, usage)


class Budget:
    """Keeps what is spent, and what the requests in flight may cost, below a cap.

    Attributes:
        spent: tokens paid for so far.
        prices: None where they are not known; then there is no cap.
    """

    def __init__(
        self, prices: Prices | None = None, cap: float | None = None, spent: Usage | None = None
    ) -> None:
        """Makes a budget.

        Args:
            prices: of tokens.
            cap: most that may be spent, in the currency of the prices.
            spent: by earlier runs.

        Raises:
            ValueError: a cap without prices.
        """
        if cap is not None and prices is None:
            raise ValueError(
                "teacher decoding: a spend cap needs prices. Pass --price_per_million_prompt_tokens and "
                "--price_per_million_completion_tokens."
            )
        self.prices = prices
        self.spent = spent or Usage()
        self._cap = cap
        self._in_flight = Usage()

    @property
    def cost(self) -> float | None:
        """What the tokens spent so far cost; None without prices."""
        return None if self.prices is None else self.prices.cost(self.spent)

    @contextlib.contextmanager
    def reserve(self, usage: Usage) -> Iterator[None]:
        """Sets tokens aside while a request is in flight.

        Raises:
            SpendCapError: they might break the cap. The run goes on in the requests that are in flight; when they cost less than
                was set aside, those who sent them may go on asking.
        """
        wanted = self.spent + self._in_flight + usage
        if self.prices and self._cap is not None and self.prices.cost(wanted) > self._cap:
            raise SpendCapError(
                f"teacher decoding: the next request might take the spend above the cap of {self._cap:g}"
            )
        self._in_flight += usage
        try:
            yield
        finally:
            self._in_flight += Usage(-usage.prompt_tokens, -usage.completion_tokens)
