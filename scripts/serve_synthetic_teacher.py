"""Serves the synthetic teacher as an OpenAI-compatible endpoint on this machine: decoding to try, without a key or money.

    python scripts/serve_synthetic_teacher.py --port=8008
    python scripts/decode_teacher.py --base_url=http://127.0.0.1:8008/v1 --model=synthetic --output_dir=records \
      --benchmark=arith --split=validation --prompt=zero_shot_cot --yes

It knows the problems of `arith`, and those of a --questions file, JSON Lines with id, question, gold and rationale (lines of "a op b = c"). One
sample in ten is wrong. Ctrl-C or SIGTERM ends it.
"""

import signal
import sys
import threading

from absl import app, flags

from cotdistill_jax import benchmarks, command, files
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.files import write_json_atomically
from cotdistill_jax.teacher import records, synthetic, synthetic_server

_PORT = flags.DEFINE_integer(
    "port", 8008, "Port on 127.0.0.1; 0 takes a free one.", lower_bound=0, upper_bound=65535
)
_PORT_FILE = flags.DEFINE_string("port_file", None, "Also write the base URL to this file.")
_QUESTIONS = flags.DEFINE_string(
    "questions", None, "Further questions: JSON Lines with id, question, gold and rationale."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of errors and probabilities.")
_ERROR_RATE = flags.DEFINE_float(
    "error_rate", synthetic.ERROR_RATE, "Share of wrong samples.", lower_bound=0, upper_bound=1
)
_RATE_LIMIT = flags.DEFINE_integer(
    "rate_limit",
    0,
    "Answer every so many requests with 429, as busy endpoints do; 0: never.",
    lower_bound=0,
)


def known_questions(path: str | None) -> dict[str, Question]:
    """Returns all questions that the teacher is told, by text."""
    found = {
        question.question: question
        for split in ("train", "validation", "test")
        for question in benchmarks.load("arith", split)
    }
    if path is not None:
        for number, line in files.read_json_lines(path, "serve"):
            missing = [name for name in ("id", "question", "gold", "rationale") if name not in line]
            if missing:
                raise ValueError(f"serve: {path} line {number} has no {', '.join(missing)}")
            found[line["question"].strip()] = Question(
                str(line["id"]),
                "own",
                line["question"].strip(),
                str(line["gold"]),
                line["rationale"],
            )
    return found


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    told = known_questions(_QUESTIONS.value)
    teacher = synthetic.SyntheticTeacher(_SEED.value, _ERROR_RATE.value)

    def answer(question: str, sample_id: int) -> records.TeacherRecord:
        asked = told[question]
        return teacher.answer(asked.id, asked.question, asked.rationale, asked.gold, sample_id)

    try:
        server = synthetic_server.SyntheticEndpoint(answer, _PORT.value, _RATE_LIMIT.value)
    except OSError as error:
        raise OSError(
            f"serve: port {_PORT.value}: {error.strerror}. Choose another --port, or 0 for a free one"
        ) from error
    if _PORT_FILE.value is not None:
        write_json_atomically(_PORT_FILE.value, server.url)
    print(
        f"serve: {len(told):,} questions at {server.url}, model {synthetic_server.MODEL}",
        flush=True,
    )

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever()
    sys.exit(0)


if __name__ == "__main__":
    command.run(app.run, main)
