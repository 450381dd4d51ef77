r"""Asks a teacher behind an OpenAI-compatible endpoint: questions in, teacher records with probabilities out.

    OPENAI_API_KEY=... python scripts/decode_teacher.py --base_url=https://api.openai.com/v1 --model=MODEL --output_dir=DIR \
      --benchmark=gsm8k --split=train --num_samples=40 --price_per_million_prompt_tokens=P --price_per_million_completion_tokens=Q \
      --spend_cap=100 --requests_per_minute=500 --tokens_per_minute=200000

It says what the run costs at most and asks before it starts (`--yes` does not ask, `--dry_run` only says it). Every answer is on disk as
soon as it has come in. The same command continues an interrupted run, asks failed questions again and leaves finished ones alone; with a
larger --num_samples or --limit it asks for the rest. Ctrl-C and SIGTERM wait for the requests under way; a second one does not.

Prompts: those of the evaluation (`zero_shot_cot`, `cot_4_cases`, `complex`, ..., `file:<path>`). The demonstrations of `complex` are the rows
--demonstration_rows of GSM8K's train file: `Question: ...`, "Let's think step by step", rationale, "The answer is ...". The default
rows give the paper's published prompt. A demonstration is left out of its own question's prompt.

Exit status: 0 all samples are there; 1 some are missing (failures, spend cap, refusal), the last lines say why; 130 or 143 interrupted.
"""

import asyncio
import dataclasses
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from tqdm import tqdm

from cotdistill_jax import benchmarks, command, files
from cotdistill_jax.benchmarks import reading
from cotdistill_jax.inference import prompts
from cotdistill_jax.teacher import decoding

COMPLEX = "complex"
_HTTP_LOGGERS = ("httpx", "httpx2")  # the client's HTTP library, by its versions
_SHORTEST_KEY = 12  # shorter ones are placeholders such as EMPTY, and may occur anywhere

_BASE_URL = flags.DEFINE_string(
    "base_url",
    os.environ.get("OPENAI_BASE_URL"),
    "Such as http://localhost:8000/v1; default OPENAI_BASE_URL.",
)
_MODEL = flags.DEFINE_string("model", None, "Name that the endpoint knows.", required=True)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of teacher records.", required=True)
_API = flags.DEFINE_enum("api", "completions", sorted(decoding.APIS), "Which API.")
_API_KEY_VARIABLE = flags.DEFINE_string(
    "api_key_variable", "OPENAI_API_KEY", "Environment variable that holds the key."
)
_API_KEY = flags.DEFINE_string(
    "api_key",
    None,
    "The key itself; other users of the machine can read it in the list of processes.",
)
_TEACHER = flags.DEFINE_string("teacher", None, "Name in the records; the model's by default.")

_BENCHMARK = flags.DEFINE_string("benchmark", None, "Ask a gold set, such as gsm8k.")
_SPLIT = flags.DEFINE_string("split", "train", "Its split.")
_QUESTIONS = flags.DEFINE_string(
    "questions", None, "Or ask a JSON Lines file with id, question and gold on every line."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of benchmark files; default COTDISTILL_DATA_DIR."
)
_LIMIT = flags.DEFINE_integer("limit", None, "Ask the first questions only.", lower_bound=1)
_PROMPT = flags.DEFINE_string(
    "prompt", COMPLEX, f"{', '.join(prompts.MODES)} or {prompts.FILE_PREFIX}<path>."
)
_DEMONSTRATION_ROWS = flags.DEFINE_list(
    "demonstration_rows",
    [str(row) for row in prompts.EIGHT_CASES[COMPLEX]],
    f"Rows that --prompt={COMPLEX} shows.",
)

_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Samples per question.", lower_bound=1)
_SAMPLES_PER_REQUEST = flags.DEFINE_integer(
    "samples_per_request",
    10,
    "Most samples asked for at once; 1 where the endpoint gives no more.",
    lower_bound=1,
)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.5, "Of sampling.")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 256, "Most tokens of an answer.")
_TOP_K = flags.DEFINE_integer(
    "top_k", 5, "Candidates per token; 0 asks for no log-probabilities and keeps texts only."
)
_STOP = flags.DEFINE_multi_string(
    "stop",
    None,
    r"Text that ends an answer; \n is a newline. Default: where a prompt with demonstrations would show another question.",
)
_SEED = flags.DEFINE_integer(
    "seed", None, "Sends every request a seed made of this one; default none."
)
_EXTRA_BODY = flags.DEFINE_string(
    "extra_body", "{}", 'Further fields of a request: {"min_p": 0.1}.'
)

_CONCURRENCY = flags.DEFINE_integer("concurrency", 8, "Requests at a time.")
_REQUESTS_PER_MINUTE = flags.DEFINE_float("requests_per_minute", None, "Limit of requests.")
_TOKENS_PER_MINUTE = flags.DEFINE_float(
    "tokens_per_minute", None, "Limit of prompt tokens and --max_tokens together."
)
_TIMEOUT_SECONDS = flags.DEFINE_float("timeout_seconds", 120.0, "For one request.")
_MAX_ATTEMPTS = flags.DEFINE_integer(
    "max_attempts", 8, "How often a request is sent.", lower_bound=1
)
_FIRST_BACKOFF_SECONDS = flags.DEFINE_float(
    "first_backoff_seconds", 1.0, "Wait before the first repetition; doubles every time."
)
_MAX_FAILURES_IN_A_ROW = flags.DEFINE_integer(
    "max_failures_in_a_row",
    10,
    "Questions that may fail one after another before the run gives up.",
)

_PROMPT_PRICE = flags.DEFINE_float("price_per_million_prompt_tokens", None, "In any currency.")
_COMPLETION_PRICE = flags.DEFINE_float("price_per_million_completion_tokens", None, "In the same.")
_SPEND_CAP = flags.DEFINE_float(
    "spend_cap", None, "Most that the folder may cost, earlier runs included, in the same currency."
)
_YES = flags.DEFINE_bool("yes", False, "Start without asking.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the estimate and the first prompt, ask nothing."
)


def load_questions() -> list[benchmarks.Question]:
    """Returns what is to be asked."""
    if (_BENCHMARK.value is None) == (_QUESTIONS.value is None):
        raise ValueError("decode: pass either --benchmark (with --split) or --questions.")
    if _BENCHMARK.value is not None:
        return benchmarks.load(_BENCHMARK.value, _SPLIT.value, _DATA_DIR.value)[: _LIMIT.value]
    path = files.as_path(_QUESTIONS.value)
    questions: dict[str, benchmarks.Question] = {}
    for row, record in enumerate(reading.read_json_lines(path)):
        fields = [
            reading.field(record, name, str, path, row) for name in ("id", "question", "gold")
        ]
        if not fields[0] or fields[0] in questions:
            raise ValueError(
                f"decode: {path} record {row}: the id {fields[0]!r} is empty or occurs twice; number the questions."
            )
        questions[fields[0]] = benchmarks.Question(fields[0], "file", *fields[1:])
    if not questions:
        raise ValueError(f"decode: {path} holds no question.")
    return list(questions.values())[: _LIMIT.value]


def build_prompt(mode: str, benchmark: str, data_dir: str | None) -> prompts.Prompt:
    """Returns the prompt of a mode for a benchmark, demonstrations included."""
    if mode != COMPLEX:
        return prompts.build(mode, benchmark, data_dir)
    try:
        rows = [int(row) for row in _DEMONSTRATION_ROWS.value]
    except ValueError as error:
        raise ValueError(
            f"decode: --demonstration_rows={','.join(_DEMONSTRATION_ROWS.value)} must be numbers"
        ) from error
    return prompts.eight_cases(mode, rows, benchmark, data_dir)


def stop_texts(prompt: prompts.Prompt) -> tuple[str, ...]:
    """Returns what ends an answer: as said by flag, or the beginning of the next question after demonstrations."""
    if _STOP.value is not None:
        return tuple(text.replace("\\n", "\n") for text in _STOP.value)
    return (f"\n{prompt.query_prefix.strip()}",) if prompt.demonstrations else ()


def api_key() -> str | None:
    """Returns the key, after making sure that no setting that is written or printed holds it."""
    source = f"the variable {_API_KEY_VARIABLE.value}" if _API_KEY.value is None else "--api_key"
    key = decoding.clean_key(
        _API_KEY.value or os.environ.get(_API_KEY_VARIABLE.value) or "", source
    )
    if "@" in _BASE_URL.value or "?" in _BASE_URL.value:
        raise ValueError(
            "decode: --base_url must hold no user, password or query; pass the key by the environment."
        )
    for name in ("base_url", "model", "teacher", "extra_body", "prompt", "output_dir"):
        if key and len(key) >= _SHORTEST_KEY and key in str(flags.FLAGS[name].value):
            raise ValueError(
                f"decode: --{name} holds the key, and would be written to disk. Leave it out there."
            )
    return key


def prices() -> decoding.Prices | None:
    """Returns the prices, or None if none are given."""
    given = (_PROMPT_PRICE.value, _COMPLETION_PRICE.value)
    if given == (None, None):
        return None
    if None in given:
        raise ValueError(
            "decode: pass both prices, of prompt and of completion tokens, or neither."
        )
    return decoding.Prices(*given)


def print_estimate(estimate: decoding.Estimate, budget: decoding.Budget) -> None:
    """Prints what the run takes at most."""
    usage = estimate.usage
    print(
        f"{estimate.samples:,} samples of {estimate.questions:,} questions are missing: {estimate.requests:,} requests, at most "
        f"{usage.prompt_tokens:,} prompt and {usage.completion_tokens:,} completion tokens."
    )
    if budget.prices is None:
        print(
            "No prices given (--price_per_million_prompt_tokens, ...completion_tokens), so the cost is not known."
        )
        return
    cap = "no spend cap" if _SPEND_CAP.value is None else f"spend cap {_SPEND_CAP.value:g}"
    print(
        f"Cost at most {budget.prices.cost(usage):,.2f} more, {budget.cost:,.2f} spent before; {cap}."
    )


def confirmed() -> bool:
    """Returns whether the user wants to start."""
    if _YES.value:
        return True
    if not sys.stdin.isatty():
        raise ValueError(
            "decode: nobody is there to confirm the estimate. Pass --yes to start, or --dry_run to see it only."
        )
    return input("Start? [y/N] ").strip().lower() in ("y", "yes")


class Interruption:
    """Takes Ctrl-C and SIGTERM: the first lets the requests under way end, the second does not."""

    def __init__(self, stop: decoding.Stop) -> None:
        """Begins to listen for signals in the running loop."""
        self.number: int | None = None
        self._stop = stop
        loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._take, number)

    def _take(self, number: int) -> None:
        if self.number is not None:
            self._task.cancel()
            return
        self.number = number
        tqdm.write(
            "Stopping: waiting for the requests under way. Once more to leave them.",
            file=sys.stderr,
        )
        self._stop.set()


async def decode(
    asked: Sequence[decoding.PromptedQuestion],
    store: decoding.Store,
    budget: decoding.Budget,
    sampling: decoding.Sampling,
    plan: decoding.Plan,
    key: str | None,
) -> tuple[decoding.Run, int | None]:
    """Runs to the end or to an interruption; returns the run and the signal that ended it."""
    stop = decoding.Stop()
    interruption = Interruption(stop)
    pace = decoding.Pace(
        stop,
        requests_per_minute=_REQUESTS_PER_MINUTE.value,
        tokens_per_minute=_TOKENS_PER_MINUTE.value,
    )
    endpoint = decoding.Endpoint(
        _BASE_URL.value,
        key,
        decoding.APIS[_API.value],
        stop=stop,
        pace=pace,
        timeout_seconds=_TIMEOUT_SECONDS.value,
        max_attempts=_MAX_ATTEMPTS.value,
        first_backoff_seconds=_FIRST_BACKOFF_SECONDS.value,
    )
    have = sum(min(plan.num_samples, store.num_samples(q.question_id)) for q in asked)
    with tqdm(
        total=plan.num_samples * len(asked),
        initial=have,
        unit="sample",
        desc="decode",
        file=sys.stderr,
    ) as bar:

        def show(num_samples: int) -> None:
            spent = (
                f"{budget.spent.total:,} tokens" if budget.cost is None else f"{budget.cost:,.4f}"
            )
            bar.set_postfix(
                spent=spent, retries=endpoint.num_retries, failed=len(store.failures), refresh=False
            )
            bar.update(num_samples)

        run = decoding.Run(endpoint, store, budget, sampling, plan, stop, show)
        try:
            await run.answer(asked)
        except asyncio.CancelledError:
            if interruption.number is None:
                raise
            run.stopped = decoding.INTERRUPTED
        finally:
            await endpoint.close()
    return run, interruption.number


def report(
    run: decoding.Run,
    asked: Sequence[decoding.PromptedQuestion],
    store: decoding.Store,
    budget: decoding.Budget,
    plan: decoding.Plan,
) -> dict[str, Any]:
    """Returns what `decode_report.json` says."""
    failed = {
        q.question_id: dataclasses.asdict(store.failures[q.question_id])
        for q in asked
        if q.question_id in store.failures
    }
    return {
        "base_url": _BASE_URL.value,
        "api": _API.value,
        "questions": len(asked),
        "num_samples": plan.num_samples,
        "missing": run.dropped(asked),
        "stopped": run.stopped,
        "totals": dict(sorted(store.totals.items())),
        "prices": budget.prices and dataclasses.asdict(budget.prices),
        "spent": budget.cost,
        "spend_cap": _SPEND_CAP.value,
        "failed": failed,
    }


def print_summary(said: dict[str, Any]) -> None:
    """Prints how the run ended."""
    totals = said["totals"]
    spent = "" if said["spent"] is None else f", spent {said['spent']:,.4f}"
    print(
        f"{totals.get('samples', 0):,} samples in {_OUTPUT_DIR.value} from {totals.get('requests', 0):,} answered or failed requests: "
        f"{totals.get('prompt_tokens', 0):,} prompt and {totals.get('completion_tokens', 0):,} completion tokens{spent}."
    )
    if totals.get("finish_length"):
        print(f"{totals['finish_length']:,} of them were cut at --max_tokens.")
    if totals.get("samples_with_other_tokens"):
        print(
            f"In {totals['samples_with_other_tokens']:,} samples the tokens do not spell the whole text; what lies between keeps no "
            "probabilities."
        )
    if totals.get("tokens_without_probabilities"):
        print(
            f"{totals['tokens_without_probabilities']:,} tokens came without usable log-probabilities; their pieces will be one-hot."
        )
    ends = {
        name.removeprefix("finish_"): n for name, n in totals.items() if name.startswith("finish_")
    }
    other = {name: n for name, n in ends.items() if name not in ("stop", "length")}
    if other:
        print(f"Samples that ended otherwise than by stop or length: {other}.")
    if totals.get("requests_without_answer"):
        print(
            f"{totals['requests_without_answer']:,} requests ended without an answer; the endpoint may have billed them."
        )


def complain(said: dict[str, Any], message: str) -> None:
    """Prints what is missing and why."""
    missing = ", ".join(f"{reason} {number:,}" for reason, number in said["missing"].items())
    print(f"decode: samples missing or left out: {missing}. {message}".rstrip(), file=sys.stderr)
    for question_id, failure in list(said["failed"].items())[:5]:
        print(f"  {question_id}: {failure['message']}", file=sys.stderr)
    print(
        f"The same command asks for them again; all failures are in {_OUTPUT_DIR.value}/decode_report.json.",
        file=sys.stderr,
    )


def extra_body() -> dict[str, Any]:
    """Returns the further fields of a request."""
    try:
        fields = json.loads(_EXTRA_BODY.value)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"decode: --extra_body is no JSON ({error}); write it like '{{\"min_p\": 0.1}}'."
        ) from error
    if not isinstance(fields, dict):
        raise ValueError(
            f"decode: --extra_body must be a JSON object like '{{\"min_p\": 0.1}}', got a {type(fields).__name__}."
        )
    return fields


def how_to_sample(prompt: prompts.Prompt) -> decoding.Sampling:
    """Returns how the flags want answers drawn."""
    return decoding.Sampling(
        model=_MODEL.value,
        temperature=_TEMPERATURE.value,
        max_tokens=_MAX_TOKENS.value,
        top_k=_TOP_K.value,
        stop=stop_texts(prompt),
        seed=_SEED.value,
        extra=extra_body(),
    )


def how_to_run(prompt: prompts.Prompt) -> decoding.Plan:
    """Returns how the flags want the questions gone about."""
    return decoding.Plan(
        num_samples=_NUM_SAMPLES.value,
        samples_per_request=_SAMPLES_PER_REQUEST.value,
        concurrency=_CONCURRENCY.value,
        max_failures_in_a_row=_MAX_FAILURES_IN_A_ROW.value,
        teacher=_TEACHER.value or _MODEL.value,
        settings={"api": _API.value, "prompt": prompt.mode, "prompt_sha256": prompt.sha256},
    )


def run_all() -> int:
    """Does what the flags say and returns the exit status."""
    if not _BASE_URL.value:
        raise ValueError("decode: pass --base_url or set OPENAI_BASE_URL.")
    key = api_key()
    questions = load_questions()
    benchmark = "gsm8k" if _BENCHMARK.value is None else _BENCHMARK.value
    prompt = build_prompt(_PROMPT.value, benchmark, _DATA_DIR.value)
    asked = [
        decoding.PromptedQuestion(q.id, q.question, q.gold, prompt.render(q.question))
        for q in questions
    ]
    sampling, plan = how_to_sample(prompt), how_to_run(prompt)
    finished = decoding.Finished(_OUTPUT_DIR.value)
    budget = decoding.Budget(prices(), _SPEND_CAP.value, decoding.usage_of(finished.totals))
    missing = [
        (q, max(0, plan.num_samples - finished.num_samples(q.question_id, q.question)))
        for q in asked
    ]
    estimate = decoding.estimate(missing, plan.samples_per_request, sampling.max_tokens)
    print_estimate(estimate, budget)
    if _DRY_RUN.value:
        print(f"The first prompt:\n{asked[0].prompt}")
        return 0
    if estimate.samples and not confirmed():
        return 1
    config = {**sampling.config(), **plan.settings, "teacher": plan.teacher}
    texts = json.dumps([[q.question_id, q.prompt] for q in asked])
    inputs = {"questions": hashlib.sha256(texts.encode()).hexdigest()}
    with decoding.Store(_OUTPUT_DIR.value, config=config, inputs=inputs) as store:
        run, number = asyncio.run(decode(asked, store, budget, sampling, plan, key))
        said = report(run, asked, store, budget, plan)
        store.write_report(said)
        # A folder that could be used before stays usable, whatever ended this run.
        if run.stopped in (None, decoding.SPEND_CAP) or finished.complete:
            store.finish(said["missing"])
    if run.first_answer:
        print(f"First answer: {run.first_answer}.")
    print_summary(said)
    if run.stopped is None and not said["failed"]:
        return 0
    complain(said, run.message)
    return 128 + number if number and run.stopped == decoding.INTERRUPTED else 1


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    if not os.environ.get("OPENAI_LOG"):
        for name in _HTTP_LOGGERS:  # a line per request would tear the progress bar apart
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        sys.exit(run_all())
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    command.run(app.run, main)
