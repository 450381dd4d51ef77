"""A decoding run: workers that take questions, ask for the samples they lack and keep what comes back.

A question is asked by one worker, request after request, so that its samples are numbered in the order in which they came. The
first question is asked alone: what is wrong with all requests is seen at the price of one. A question that fails is written down
and left for the next run, where it comes last.
"""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cotdistill_jax.teacher.decoding.answers import MALFORMED, Answer, ChoiceError, Usage, check
from cotdistill_jax.teacher.decoding.budget import Budget, SpendCapError, most_tokens
from cotdistill_jax.teacher.decoding.endpoint import (
    Endpoint,
    EndpointUnusableError,
    RequestFailedError,
)
from cotdistill_jax.teacher.decoding.journal import Entry, Failure
from cotdistill_jax.teacher.decoding.pace import InterruptedRunError, Stop
from cotdistill_jax.teacher.decoding.questions import PromptedQuestion, Sampling
from cotdistill_jax.teacher.decoding.store import Store
from cotdistill_jax.teacher.records import TeacherRecord

SPEND_CAP = "spend_cap"
INTERRUPTED = "interrupted"
FAILURES_IN_A_ROW = "failures_in_a_row"
SURPLUS = "surplus_choice"
# What no question can change: seen in the first answer of a run, it ends the run.
_WRONG_FROM_THE_START = frozenset(
    {
        "missing_log_probs",
        "too_few_candidates",
        "tokens_do_not_spell_text",
        "no_log_probabilities",
        MALFORMED,
    }
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a run goes about its questions.

    Attributes:
        num_samples: wanted per question, those of earlier runs included.
        samples_per_request: most choices in a request.
        concurrency: questions asked at a time.
        max_failures_in_a_row: questions that may fail one after another before the run gives up.
        teacher: name in the records.
        settings: what `decode_settings` of every record says beside the sampling.
    """

    num_samples: int
    samples_per_request: int = 10
    concurrency: int = 8
    max_failures_in_a_row: int = 10
    teacher: str = "teacher"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError where a number is less than 1."""
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.type is int}
        wrong = {name: number for name, number in numbers.items() if number < 1}
        if wrong:
            raise ValueError(f"teacher decoding: {wrong} must be at least 1.")


class Run:
    """One run over some questions.

    Attributes:
        stopped: why it ended before all questions were asked (`SPEND_CAP`, `INTERRUPTED`, `FAILURES_IN_A_ROW`, or the reason for
            which the endpoint is unusable), or None.
        message: what to tell about it.
        first_answer: what its check found, in words; "" before.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        store: Store,
        budget: Budget,
        sampling: Sampling,
        plan: Plan,
        stop: Stop,
        on_progress: Callable[[int], None] = lambda num_samples: None,
    ) -> None:
        """Puts a run together.

        Args:
            endpoint: that is asked.
            store: that keeps what comes back.
            budget: that says whether a request may be sent.
            sampling: how answers are drawn.
            plan: how to go about it.
            stop: told to stop by whoever made it, and by the run where going on makes no sense.
            on_progress: called after every request with the number of samples it gave.
        """
        self._endpoint, self._store, self._budget = endpoint, store, budget
        self._sampling, self._plan, self._stop = sampling, plan, stop
        self._on_progress = on_progress
        self._failures_in_a_row = 0
        self.first_answer = ""
        self._repeats_written = 0
        self._losses_written = 0
        self.stopped: str | None = None
        self.message = ""

    async def answer(self, questions: Iterable[PromptedQuestion]) -> None:
        """Asks for what the questions lack; returns when they are done or the run has stopped.

        Args:
            questions: with distinct ids.
        """
        todo = [
            q for q in questions if self._store.num_samples(q.question_id) < self._plan.num_samples
        ]
        todo.sort(key=lambda q: q.question_id in self._store.failures)  # stable: order stays
        left = iter(todo)
        await self._work(left, until_one_succeeds=True)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.concurrency):
                group.create_task(self._work(left))

    def dropped(self, questions: Sequence[PromptedQuestion]) -> dict[str, int]:
        """Returns the samples that the questions lack by reason, and the choices that were too many."""
        counts: collections.Counter[str] = collections.Counter()
        for question in questions:
            missing = self._plan.num_samples - self._store.num_samples(question.question_id)
            failure = self._store.failures.get(question.question_id)
            if missing > 0:
                counts[failure.reason if failure else self.stopped or INTERRUPTED] += missing
        counts[SURPLUS] += self._store.totals[SURPLUS]
        return dict(+counts)

    async def _work(
        self, questions: Iterator[PromptedQuestion], until_one_succeeds: bool = False
    ) -> None:
        for question in questions:
            try:
                self._stop.check()
                await self._complete(question)
            except InterruptedRunError:
                self._end(INTERRUPTED, "interrupted")
                return
            except SpendCapError as error:
                self._end(SPEND_CAP, str(error))
                return
            except EndpointUnusableError as error:
                self._end(error.reason, str(error))
                self._stop.set()
                return
            except RequestFailedError as error:
                self._fail(question, error)
            else:
                if until_one_succeeds:
                    return

    async def _complete(self, question: PromptedQuestion) -> None:
        """Asks until a question has all its samples."""
        while True:
            have = self._store.num_samples(question.question_id)
            wanted = min(self._plan.num_samples - have, self._plan.samples_per_request)
            if wanted <= 0:
                return
            self._stop.check()
            most = most_tokens(question.prompt, wanted, self._sampling.max_tokens)
            seed = self._sampling.request_seed(question.question_id, have)
            with self._budget.reserve(most):
                answer = await self._endpoint.ask(
                    question.prompt, self._sampling, wanted, seed, most.total
                )
                self._check_first(answer, wanted)
                self._keep(question, answer, wanted, have, seed)

    def _check_first(self, answer: Answer, wanted: int) -> None:
        """Checks the first answer of the run end to end.

        Raises:
            RequestFailedError: most of the teacher's probabilities would be lost.
        """
        if self.first_answer:
            return
        try:
            check(answer, self._sampling.top_k)
        except ChoiceError as error:
            raise self._endpoint.failure(error, wanted) from None
        self.first_answer = _described(answer)

    def _keep(
        self, question: PromptedQuestion, answer: Answer, wanted: int, have: int, seed: int | None
    ) -> None:
        kept = answer.samples[:wanted]
        settings = {**self._sampling.config(), **self._plan.settings, "seed": seed}
        records = tuple(
            TeacherRecord(
                question_id=question.question_id,
                sample_id=have + number,
                question=question.question,
                gold=question.gold,
                text=sample.text,
                tokens=sample.tokens,
                top_k=sample.top_k,
                label=None,
                teacher=self._plan.teacher,
                decode_settings={**settings, "finish_reason": sample.finish_reason},
            )
            for number, sample in enumerate(kept)
        )
        counts = collections.Counter(f"finish_{sample.finish_reason}" for sample in kept)
        counts["samples"] = len(kept)
        counts["unusable_choices"] = answer.num_unusable
        counts["samples_with_other_tokens"] = sum(sample.covered < 1.0 for sample in kept)
        counts["tokens_without_probabilities"] = sum(
            not row for sample in kept for row in sample.top_k
        )
        counts[SURPLUS] = len(answer.samples) - len(kept)
        usage = answer.usage
        if usage is None:
            counts["requests_without_usage"] += 1
            prompt = most_tokens(question.prompt, 0, 0).prompt_tokens
            written = (
                len(s.tokens) or most_tokens(s.text, 0, 0).prompt_tokens for s in answer.samples
            )
            usage = Usage(prompt, sum(written))
        self._store.add(Entry(question.question_id, self._counts(counts, usage), records))
        self._failures_in_a_row = 0
        self._on_progress(len(records))

    def _fail(self, question: PromptedQuestion, error: RequestFailedError) -> None:
        failure = Failure(error.reason, str(error))
        counts = self._counts(collections.Counter(failed_requests=1), error.usage or Usage())
        self._store.add(Entry(question.question_id, counts, failure=failure))
        self._on_progress(0)
        self._failures_in_a_row += 1
        if error.reason in _WRONG_FROM_THE_START and not self.first_answer:
            self._end(error.reason, str(error))
            self._stop.set()
        elif self._failures_in_a_row >= self._plan.max_failures_in_a_row:
            self._end(
                FAILURES_IN_A_ROW,
                f"{self._failures_in_a_row} questions failed one after another, the last with {error}",
            )
            self._stop.set()

    def _counts(self, counts: collections.Counter[str], usage: Usage) -> dict[str, int]:
        """Returns what an entry adds to the totals, and takes the tokens into the budget."""
        self._budget.spent += usage
        counts["requests"] += 1
        counts["prompt_tokens"] += usage.prompt_tokens
        counts["completion_tokens"] += usage.completion_tokens
        counts["retries"] += self._endpoint.num_retries - self._repeats_written
        counts["requests_without_answer"] += self._endpoint.num_lost - self._losses_written
        self._repeats_written = self._endpoint.num_retries
        self._losses_written = self._endpoint.num_lost
        return dict(+counts)

    def _end(self, reason: str, message: str) -> None:
        """Notes why the run stops; the first reason stays."""
        if self.stopped is None:
            self.stopped, self.message = reason, message


def _described(answer: Answer) -> str:
    """Returns what a first answer holds, in words."""
    sample = answer.samples[0]
    if not sample.tokens:
        return f"{len(sample.text)} characters, no log-probabilities"
    rows = [row for row in sample.top_k if row]
    mass = sum(prob for row in rows for _, prob in row) / max(1, len(rows))
    return (
        f"{len(sample.tokens)} tokens spell {sample.covered:.0%} of the text (spelling: {sample.spelling}), {len(rows)} of them with "
        f"probabilities of up to {max(map(len, rows), default=0)} candidates that add up to {mass:.3f} on average"
    )
