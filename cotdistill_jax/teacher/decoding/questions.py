"""What is asked of a teacher, and how it is to answer: plain strings and numbers, made by later rooms."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

_SEED_BITS = 31  # the widest that every endpoint seen so far takes


@dataclasses.dataclass(frozen=True)
class PromptedQuestion:
    """A question with the whole text that the endpoint gets.

    Attributes:
        question_id: as in `benchmarks.Question.id`.
        question: without prompt, as it is stored.
        gold: gold answer.
        prompt: demonstrations, question and what follows it.
    """

    question_id: str
    question: str
    gold: str
    prompt: str


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How answers are drawn; the same for every question of a folder.

    Attributes:
        model: name the endpoint knows.
        temperature: 0 or more.
        max_tokens: most tokens of an answer.
        top_k: candidates wanted per token; 0 asks for no log-probabilities and stores text only.
        stop: texts that end an answer.
        seed: None sends none; otherwise every request gets one of its own, see `request_seed`.
        extra: further fields of the request's JSON, such as `{"min_p": 0.1}`.
    """

    model: str
    temperature: float = 0.5
    max_tokens: int = 256
    top_k: int = 5
    stop: tuple[str, ...] = ()
    seed: int | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError where a number cannot be meant."""
        if self.temperature < 0 or self.max_tokens < 1 or self.top_k < 0:
            raise ValueError(
                f"teacher decoding: temperature {self.temperature} must be 0 or more, max_tokens {self.max_tokens} at least 1, "
                f"top_k {self.top_k} at least 0."
            )

    def config(self) -> dict[str, Any]:
        """Returns the settings as JSON-able values."""
        return {**dataclasses.asdict(self), "stop": list(self.stop)}

    def request_seed(self, question_id: str, first_sample_id: int) -> int | None:
        """Returns the seed of one request, in [0, 2**31), or None without a seed.

        It depends on the question and the number of its first sample: with one seed for all, an endpoint would give the second
        request of a question the samples of the first.
        """
        if self.seed is None:
            return None
        digest = hashlib.sha256(f"{self.seed}\n{question_id}\n{first_sample_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)
