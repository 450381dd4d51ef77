r"""The decode transcripts of the seed, read question by question: text files that may be many gigabytes long.

    Question 0: <question>
    Answer: <worked solution, several lines>
    Model output 0: <text, several lines>
    Per-step decode: <<' step'>> 1.0000 <<'!'>> 0.0000 ... ||| <<'\n'>> 0.9862 ... |||
    Model output 1: ...
    (four empty lines)

A step is the sampled token and the top 5, each as Python writes a string (so quotes, `<<`, `>>`, `|||`, newlines and backslashes
may be part of a token) with its probability. What belongs to which part is decided by the part before: a text goes on until
"Per-step decode: " whatever its lines begin with, and only after that a question or a sample begins.

Windows ends lines with CR and LF, and files that were joined or edited do so in part. How the lines of a sample end is seen at the end of
its steps, where the teacher wrote nothing; any other CR is the teacher's.

Two marks of how the transcripts came about are repaired and counted: a question that was interrupted and asked again
(`repeated_question`; its samples are numbered on), and a teacher that goes on with a question of its own after the answer, whose
text and steps are left out from there on, as the seed did (`continued_after_answer`).
"""

import ast
import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator

from cotdistill_jax import files
from cotdistill_jax.teacher.records import TeacherRecord
from cotdistill_jax.teacher.seed_text import (
    FLAVOURS,
    Flavour,
    SeedFileError,
    Step,
    parse_gold,
    parse_question,
    parse_sample,
    spell,
)

_PAIR = re.compile(r"""\s*<<('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")>> +([0-9.e+-]+|nan|inf) """)
_STEP_END = re.compile(r"\s*\|\|\|")
_STEPS_LABEL = "Per-step decode: "
_QUESTION = re.compile(r"Question \d+: ")
_SAMPLE = re.compile(r"Model output \d+: ?")
_CONTINUES = "Question"
_LINE_END = re.compile(r"\r*\n")


@dataclasses.dataclass
class SeedTranscript:
    """A transcript; iterate over it for the records of each question.

    Attributes:
        path: the file.
        flavour: the teacher.
        question_prefix: put before a question's number to make its id.
        read: called with the number of bytes of every line that was read.
        keep_whole: leave out what an interruption cut off, and count it, where a cut-off part would be an error.
        repaired: what was repaired, by kind; counted while iterating.
        dropped: samples left out, by reason; counted while iterating.
    """

    path: files.Path
    flavour: Flavour
    question_prefix: str = "gsm8k/train/"
    read: Callable[[int], object] = int
    keep_whole: bool = False
    repaired: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __iter__(self) -> Iterator[list[TeacherRecord]]:
        """Yields the records of each question, without labels.

        Raises:
            FileNotFoundError: no such file.
            SeedFileError: a part of another shape, or a file that ends inside a sample; the message names file, line and question.
        """
        self.repaired.clear()
        self.dropped.clear()
        samples_of: collections.Counter[int] = collections.Counter()
        texts: dict[int, str] = {}
        for block in _blocks(self.path, self.read):
            number, question = parse_question(block.question, block.where)
            if number in texts:
                if texts[number] != question:
                    raise SeedFileError(
                        f"{block.where}: question {number} was {texts[number][:60]!r} before and is {question[:60]!r} now. Renumber one."
                    )
                self.repaired["repeated_question"] += 1
            texts[number] = question
            records = self._records(block, number, question, samples_of[number])
            samples_of[number] += len(records)
            if records:
                yield records

    def _records(
        self, block: "_Block", number: int, question: str, first_sample: int
    ) -> list[TeacherRecord]:
        if block.is_last and (block.unfinished or not block.samples) and not self.keep_whole:
            raise SeedFileError(
                f"{block.where}: the file ends inside the block of question {number}, after {len(block.samples)} whole samples. Get the "
                "whole file, or import what is whole."
            )
        if block.unfinished:
            self.dropped["cut_off_sample"] += block.unfinished
        if not block.samples:
            return []
        gold = parse_gold(block.answer, block.where)
        made = []
        for sample, (text, line, steps) in enumerate(block.samples, first_sample):
            where = f"import: {self.path} line {line}, question {number}, sample {sample}"
            kept_text, kept_steps = self._until_continued(text, parse_steps(steps, where))
            spelled = spell(kept_steps, self.flavour)
            made.append(
                TeacherRecord(
                    question_id=f"{self.question_prefix}{number}",
                    sample_id=sample,
                    question=question,
                    gold=gold,
                    text=parse_sample(kept_text, self.flavour, where),
                    tokens=tuple(step[0][0] for step in spelled),
                    top_k=tuple(spelled),
                    label=None,
                    teacher=self.flavour.teacher,
                    decode_settings=self.flavour.decode_settings,
                )
            )
        return made

    def _until_continued(self, text: str, steps: list[Step]) -> tuple[str, list[Step]]:
        """Returns text and steps up to where the teacher begins a question of its own."""
        place = text.find(f"\n{_CONTINUES}")
        kept = text if place < 0 else text[: place + 1]
        cut = steps[: _end_of_answer(steps)]
        if place >= 0 or len(cut) < len(steps):
            self.repaired["continued_after_answer"] += 1
        return kept, cut


def open_transcript(
    path: files.AnyPath,
    flavour: str,
    *,
    question_prefix: str = "gsm8k/train/",
    read: Callable[[int], object] = int,
    keep_whole: bool = False,
) -> SeedTranscript:
    """Returns a transcript; see `SeedTranscript` for the arguments.

    Raises:
        FileNotFoundError: no such file.
        KeyError: unknown flavour.
    """
    path = files.as_path(path)
    if not path.exists():
        raise FileNotFoundError(f"import: no file {path}.")
    if files.read_head(path, 1):
        files.refuse_foreign_content(path, "import", "a transcript of the seed's decode scripts")
    if flavour not in FLAVOURS:
        raise KeyError(f"import: unknown flavour {flavour!r}. Choose one of {sorted(FLAVOURS)}.")
    return SeedTranscript(path, FLAVOURS[flavour], question_prefix, read, keep_whole)


def parse_steps(line: str, where: str) -> list[Step]:
    r"""Returns the steps of a "Per-step decode" line without that label.

    Example: `"<<'a'>> 0.5000 <<\"'\">> 0.2500 ||| "` gives `[(("a", 0.5), ("'", 0.25))]`.

    Args:
        line: the rest of the line.
        where: file, line and sample, for the error.

    Raises:
        SeedFileError: it is no such line; the message says which step.
    """
    steps: list[Step] = []
    pairs: list[tuple[str, float]] = []
    place, end = 0, len(line.rstrip())
    while place < end:
        pair = _PAIR.match(line, place)
        if pair:
            pairs.append((_unquote(pair[1]), float(pair[2])))
            place = pair.end()
            continue
        step_end = _STEP_END.match(line, place)
        if step_end is None or not pairs:
            raise SeedFileError(
                f'{where}, step {len(steps)}: expected "<<\'token\'>> 0.1234" or "|||", got {line[place : place + 40]!r}. The line is '
                "cut off or was edited."
            )
        steps.append(tuple(pairs))
        pairs = []
        place = step_end.end()
    if pairs:
        raise SeedFileError(
            f"{where}, step {len(steps)}: the line ends inside the step. It is cut off."
        )
    return steps


@dataclasses.dataclass
class _Block:
    """The part of a transcript about one question.

    Attributes:
        where: file and line, for errors.
        question: first line or lines.
        answer: worked solution with its label.
        samples: (text with label, line number, steps) of each whole sample.
        unfinished: samples without their steps, 0 or 1.
        is_last: whether the file ends here.
    """

    where: str
    question: str
    answer: str = ""
    samples: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
    unfinished: int = 0
    is_last: bool = False


def _blocks(path: files.Path, read: Callable[[int], object]) -> Iterator[_Block]:
    """Yields the blocks of a file; each line belongs to the part that the lines before it opened."""
    block, text, part = None, "", "end"
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(_decoded(lines, path), 1):
            read(len(line.encode()))
            if part == "end" and not line.strip():
                continue
            if part in ("end", "question", "answer") and _QUESTION.match(line):
                if block is not None:
                    yield block
                where = f"import: {path} line {number}"
                if "\rAnswer: " in line:
                    raise SeedFileError(
                        f"{where}: the lines end with CR alone, as on old Macs. Convert them to LF (mac2unix)."
                    )
                block, part = _Block(where, _LINE_END.sub("\n", line)), "question"
            elif block is None:
                raise SeedFileError(
                    f"import: {path} line {number}: expected 'Question <number>: ...', got {line[:60]!r}. Check that this is a transcript "
                    "of the seed's decode scripts."
                )
            elif part == "question" and line.startswith("Answer: "):
                block.answer, part = line, "answer"
            elif part in ("end", "answer") and _SAMPLE.match(line):
                text, part, block.unfinished = line, "sample", 1
            elif part == "sample" and line.startswith(_STEPS_LABEL) and line.endswith("\n"):
                steps = line.rstrip("\r\n")
                text = text.replace(line[len(steps) :], "\n")
                block.samples.append((text, number, steps[len(_STEPS_LABEL) :]))
                part, block.unfinished = "end", 0
            elif part == "question":
                block.question += _LINE_END.sub("\n", line)
            elif part == "answer":
                block.answer += line
            elif part == "sample":
                text += line
            else:
                raise SeedFileError(
                    f"import: {path} line {number}: expected 'Model output <number>: ' or 'Question <number>: ', got {line[:60]!r}."
                )
    if block is None:
        raise SeedFileError(f"import: {path} is empty.")
    block.is_last = True
    yield block


def _decoded(lines: Iterable[str], path: files.Path) -> Iterator[str]:
    """Yields the lines of a file; what is no UTF-8 is a SeedFileError."""
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise SeedFileError(
            f"import: {path} is not UTF-8 (byte {error.object[error.start]:#04x}). Save it as UTF-8."
        ) from error


def _end_of_answer(steps: list[Step]) -> int:
    """Returns the first step after "answer ... is" that begins a question of the teacher's own, or the number of steps."""
    expected = ["answer", "is", _CONTINUES]
    for place, step in enumerate(steps):
        if expected[0] in step[0][0]:
            if len(expected) == 1:
                return place
            expected.pop(0)
    return len(steps)


@functools.lru_cache(maxsize=1 << 16)
def _unquote(literal: str) -> str:
    return str(ast.literal_eval(literal))
