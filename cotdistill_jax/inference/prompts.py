r"""Evaluation prompts: the text put before and after a question.

| mode | maths sets and `arith` | BBH |
|---|---|---|
| `zero_shot_cot` | format `zero_shot_cot` | the same |
| `zero_shot_answer_only` | format `zero_shot_answer_only` | the same |
| `cot_4_cases` | format `in_context_cot`, demonstrations `DEMONSTRATION_ROWS` | the published prompt (3 cases) |
| `answer_only_4_cases` | format `in_context_answer_only`, same demonstrations | the published prompt without its rationales |
| `complex`, `simple`, `random` | 8 demonstrations, `EIGHT_CASES`, each beginning with `Question: ` | refused |
| `file:<path>` | the file's text | the same |

Maths prompts are built from `formats`, so that a student is asked in the words it was trained on. The paper's
own evaluation prompts end in one more newline, which leaves no trace in T5's token ids.

The demonstrations are rows 802, 6893, 7003 and 2778 of GSM8K's train file, counted from 0; rendered by
`in_context_cot` they give the paper's published 4-case prompt to the byte. For `arith` they are the problems of
the same numbers of its train split, so that its evaluation stays within one distribution. `complex`, `simple` and
`random` are made in the same way and give the paper's other prompts of GSM8K problems to the byte: those with the longest
solutions, with short ones, and drawn at random. Its `prompt_original.txt` and `prompt_direct.txt` are no GSM8K problems; give them as files.

A prompt file holds demonstrations separated by empty lines, each beginning with `Q: ` or `Question: `; text before
the first stays first. `{question}` marks the place of the question. Without that mark the question is put after the file's text
as its demonstrations put theirs: `Q: ` or `Question: ` before it, and after it the first of `ANSWER_STARTS` that all of them hold;
without demonstrations `Q: <question>\nLet's think step by step`.

Sources: Fu et al. 2023 (lib_prompt of its repository); Fu et al. 2022 (arXiv 2210.00720) for the complex prompt; Suzgun et al.
2022 (cot-prompts).
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from cotdistill_jax import benchmarks, files, formats
from cotdistill_jax.benchmarks import arith

DEMONSTRATION_ROWS = (802, 6893, 7003, 2778)
EIGHT_CASES = {
    "complex": (7364, 1708, 669, 6724, 261, 1380, 3715, 7446),
    "simple": (*DEMONSTRATION_ROWS, 7112, 3807, 3428, 3090),
    "random": (5022, 7400, 2927, 1286, 7172, 1015, 5058, 3280),
}
"""Rows of GSM8K's train file that the prompts with eight cases show."""
ANSWER_STARTS = (
    "\nA: Let's think step by step.",
    "\nLet's think step by step",
    "\nA:",
    "\nThe answer is",
)
FILE_PREFIX = "file:"

_FORMATS = {
    "zero_shot_cot": "zero_shot_cot",
    "zero_shot_answer_only": "zero_shot_answer_only",
    "cot_4_cases": "in_context_cot",
    "answer_only_4_cases": "in_context_answer_only",
}
MODES = (*_FORMATS, *EIGHT_CASES)
_QUESTION_MARK = "{question}"
_DEMONSTRATION_START = re.compile(r"(?<=\n\n)(?=Q: |Question: )")
_BBH_DEMONSTRATION = re.compile(
    r"(Q: .*?\nA:) Let's think step by step\..*So the answer is (.*)\.", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A solved question in front of the one that is asked.

    Attributes:
        question: its question; a prompt for that question leaves the demonstration out.
        text: the whole demonstration, the empty line after it included.
    """

    question: str
    text: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """How the questions of one benchmark are put to a model.

    Attributes:
        mode: a name in `MODES`, or `file:<path>`.
        head: text before the demonstrations, such as the task description of BBH.
        demonstrations: in the order in which they appear.
        query_prefix: text between the demonstrations and the question.
        query_suffix: text after the question.
    """

    mode: str
    head: str
    demonstrations: tuple[Demonstration, ...]
    query_prefix: str
    query_suffix: str

    def shown(self, question: str) -> tuple[Demonstration, ...]:
        """Returns the demonstrations for a question: all, except the question itself."""
        return tuple(d for d in self.demonstrations if d.question != question)

    def render(self, question: str, num_left_out: int = 0) -> str:
        """Returns the model's input for a question.

        Args:
            question: its text.
            num_left_out: how many demonstrations, from the first one on, are left out.

        Example: `build("zero_shot_answer_only", "gsm8k").render("1 + 2?")` is `"Q: 1 + 2? A:"`.
        """
        texts = [d.text for d in self.shown(question)[num_left_out:]]
        return "".join([self.head, *texts, self.query_prefix, question, self.query_suffix])

    @property
    def sha256(self) -> str:
        """Checksum of everything the prompt puts around a question."""
        texts = [d.text for d in self.demonstrations]
        parts = [self.head, *texts, self.query_prefix, self.query_suffix]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def build(mode: str, benchmark: str, data_dir: files.AnyPath | None = None) -> Prompt:
    """Returns the prompt of a mode for a benchmark.

    Args:
        mode: a name in `MODES`, or `file:<path>`.
        benchmark: name as in `benchmarks.load`, without split.
        data_dir: benchmark folder, read for demonstrations; see `benchmarks.load`.

    Raises:
        ValueError: unknown mode (the message lists them), a prompt file that cannot be used, or eight cases for BBH.
        FileNotFoundError: the prompt file, or the file with the demonstrations, is missing.
    """
    if mode.startswith(FILE_PREFIX):
        return from_file(files.as_path(mode.removeprefix(FILE_PREFIX)))
    if mode in EIGHT_CASES:
        return eight_cases(mode, EIGHT_CASES[mode], benchmark, data_dir)
    if mode not in _FORMATS:
        raise ValueError(
            f"inference: unknown prompt {mode!r}; allowed: {', '.join(MODES)}, {FILE_PREFIX}<path>"
        )
    form = formats.get_format(_FORMATS[mode])
    if not form.in_context:
        return Prompt(mode, "", (), form.query_prefix, form.query_suffix)
    if benchmark in benchmarks.BBH:
        return _published(mode, benchmark, data_dir, form.chain_of_thought)
    demonstrations = tuple(
        Demonstration(q.question, form.render_demonstration(q.question, q.rationale, q.gold))
        for q in _questions(DEMONSTRATION_ROWS, benchmark, data_dir)
    )
    return Prompt(mode, "", demonstrations, form.query_prefix, form.query_suffix)


def eight_cases(
    mode: str,
    rows: Sequence[int],
    benchmark: str,
    data_dir: files.AnyPath | None = None,
) -> Prompt:
    """Returns a prompt of `EIGHT_CASES`, or with other rows, be they eight or not.

    Args:
        mode: its name.
        rows: of GSM8K's train file, for `arith` of its train split, counted from 0.
        benchmark: name as in `benchmarks.load`, without split.
        data_dir: benchmark folder; see `benchmarks.load`.

    Raises:
        ValueError: a row that does not exist, or a task of BBH.
    """
    if benchmark in benchmarks.BBH:
        raise ValueError(
            f"inference: the prompt {mode} shows maths problems, got {benchmark}; ask BBH with cot_4_cases, its published prompt"
        )
    form = dataclasses.replace(formats.get_format("in_context_cot"), query_prefix="Question: ")
    demonstrations = tuple(
        Demonstration(q.question, form.render_demonstration(q.question, q.rationale, q.gold))
        for q in _questions(rows, benchmark, data_dir)
    )
    return Prompt(mode, "", demonstrations, form.query_prefix, form.query_suffix)


def from_file(path: files.Path) -> Prompt:
    """Returns the prompt that a text file holds; see the module's text for its form.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or names `{question}` more than once.
    """
    if not path.is_file():
        raise FileNotFoundError(f"inference: no prompt file {path}")
    text = files.read_text(path, "inference", "a prompt")
    if not text.strip() or text.count(_QUESTION_MARK) > 1:
        raise ValueError(
            f"inference: prompt file {path} must hold text with at most one {_QUESTION_MARK}, got "
            f"{len(text)} characters with {text.count(_QUESTION_MARK)}"
        )
    before, marked, suffix = text.partition(_QUESTION_MARK)
    if not marked:
        before = f"{text.rstrip()}\n\n"
        _, shown = _split_head(_DEMONSTRATION_START.split(before))
        before += "Question: " if shown and shown[-1].startswith("Question: ") else "Q: "
        suffix = _answer_start(shown)
    *blocks, query_prefix = _DEMONSTRATION_START.split(before)
    head, texts = _split_head(blocks)
    demonstrations = tuple(Demonstration(_question_of(text), text) for text in texts)
    return Prompt(f"{FILE_PREFIX}{path}", head, demonstrations, query_prefix, suffix.rstrip())


def _answer_start(demonstrations: Sequence[str]) -> str:
    """Returns what stands between question and answer in all demonstrations; what asks for a rationale where there are none."""
    if not demonstrations:
        return formats.FORMATS["zero_shot_cot"].query_suffix
    for start in ANSWER_STARTS:
        if all(start in text for text in demonstrations):
            return start
    raise ValueError(
        f"inference: the demonstrations do not all hold one of {', '.join(map(repr, ANSWER_STARTS))} before their answers, such as "
        f"{demonstrations[0][:80]!r}; mark the place of the question with {_QUESTION_MARK}"
    )


def _questions(
    rows: Sequence[int], benchmark: str, data_dir: files.AnyPath | None
) -> list[benchmarks.Question]:
    if benchmark == "arith":
        pool = arith.load("train", num_examples=max(rows) + 1)
    else:
        pool = benchmarks.load("gsm8k", "train_and_dev", data_dir)
    if not all(0 <= row < len(pool) for row in rows):
        raise ValueError(
            f"inference: the demonstrations are rows {tuple(rows)} of gsm8k/train.jsonl, which has "
            f"{len(pool)} rows; fetch the whole file, or name rows that it has"
        )
    return [pool[row] for row in rows]


def _published(
    mode: str, benchmark: str, data_dir: files.AnyPath | None, chain_of_thought: bool
) -> Prompt:
    """Returns BBH's prompt as published, or with each rationale cut out: `A: <answer>`."""
    task = benchmark.removeprefix("bbh/")
    text = benchmarks.bbh_cot_prompt(task, data_dir) + "\n\n"
    head, texts = _split_head(_DEMONSTRATION_START.split(text))
    if not chain_of_thought:
        texts = [_without_rationale(text, benchmark) for text in texts]
    suffix = "\nA: Let's think step by step." if chain_of_thought else "\nA:"
    demonstrations = tuple(Demonstration(_question_of(text), text) for text in texts)
    return Prompt(mode, head, demonstrations, "Q: ", suffix)


def _split_head(blocks: list[str]) -> tuple[str, list[str]]:
    """Returns the text before the first demonstration, and the demonstrations."""
    if blocks and not blocks[0].startswith(("Q: ", "Question: ")):
        return blocks[0], blocks[1:]
    return "", blocks


def _without_rationale(demonstration: str, benchmark: str) -> str:
    parts = _BBH_DEMONSTRATION.fullmatch(demonstration.strip())
    if parts is None:
        raise ValueError(
            f"inference: a demonstration of {benchmark} is not 'Q: ...\\nA: Let's think step by step. ... So "
            f"the answer is ....': {demonstration[:80]!r}"
        )
    return f"{parts[1]} {parts[2]}\n\n"


def _question_of(demonstration: str) -> str:
    """Returns the text between a demonstration's `Q: ` and its answer."""
    return re.split(r"\nA:|\nLet's think|\nThe answer is", demonstration.partition(": ")[2])[
        0
    ].strip()
