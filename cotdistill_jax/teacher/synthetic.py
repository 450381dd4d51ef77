r"""A synthetic teacher: samples as a GPT-like completion model would give them, made from gold solutions.

The embedded source has no teacher to ask, but filtering and alignment are to work on the real thing: tokens that
are not the student's, five candidates per token with probabilities of four decimals, and some wrong samples.

- Tokens: words with the blank in front, words from `_SPLIT_LENGTH` letters on in two tokens, numbers of up to three
  digits in one (" 48"), "\n" alone, no blank at the start of a line.
- Candidates: the sampled token first by far, then others of its kind. Operators and punctuation are almost certain,
  the result of a calculation has 0.85 to 0.99, a word 0.8 to 0.99.
- Derivations: at a `swap_rate` the operands of sums and products change places, so that samples of a question differ in how
  they reach its answer.
- Wrong samples: one calculation is off and its result is carried on to a wrong answer; there, the sampled token has
  little probability and the right number leads.
"""

import itertools
import random
import re
from collections.abc import Iterator, Sequence

from cotdistill_jax.teacher.records import TeacherRecord

TEACHER_NAME = "synthetic"
ERROR_RATE = 0.1

_TOKEN = re.compile(r"\n| ?[A-Za-z]+| ?\d{1,3}| ?[^\sA-Za-z\d]| ")
_CALCULATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_SPLIT_LENGTH = 7
_FIRST_PART_LENGTH = 4
# Variants of the candidate row per pair of neighbouring tokens: rows are looked up, not made, for each sample.
_NUM_VARIANTS = 8
# How the mass that the sampled token leaves is shared by the other candidates; a tenth goes to tokens below the top 5.
_SHARES = (0.5, 0.2, 0.12, 0.08)
_STEPS_PER_UNIT = 10_000

_WORDS = (" the", " a", " in", " of", " and", " are", " has", " is", " more", " total", " each")
_LINE_STARTS = ("So", "The", "Then", "There", "He", "She", "In", "Now", "First", "Total")
_WORD_ENDS = ("s", "ing", "ed", "er", "es", "ly", "en", "ion")
_MARKS = (".", ",", ":", " =", " +", " -", " *", " /", "\n", " x", ";")

Row = tuple[tuple[str, float], ...]


class SyntheticTeacher:
    """Answers questions whose solution it is told; each answer depends on the seed and the question's id alone.

    Example:
        >>> record = SyntheticTeacher(error_rate=0.0).answer("q0", "1 + 1?", "In all: 1 + 1 = 2 apples.", "2")
        >>> record.text
        'In all: 1 + 1 = 2 apples.\\nThe answer is 2'
        >>> record.tokens[:7]
        ('In', ' all', ':', ' 1', ' +', ' 1', ' =')
    """

    def __init__(
        self, seed: int = 0, error_rate: float = ERROR_RATE, swap_rate: float = 0.0
    ) -> None:
        """Makes a teacher.

        Args:
            seed: Another seed gives other errors and probabilities.
            error_rate: Share of samples with a wrong answer, in [0, 1].
            swap_rate: Share of sums and products whose operands change places, in [0, 1].

        Raises:
            ValueError: If a rate is not in [0, 1].
        """
        for name, rate in (("error_rate", error_rate), ("swap_rate", swap_rate)):
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"teacher: {name} is {rate}, expected a share from 0 to 1.")
        self._seed = seed
        self._error_rate, self._swap_rate = error_rate, swap_rate
        self._settings = {"seed": seed, "error_rate": error_rate, "swap_rate": swap_rate}
        self._parts: dict[str, tuple[str, ...]] = {}
        self._rows: dict[tuple[str, str], list[Row]] = {}

    def answer(
        self, question_id: str, question: str, rationale: str | None, gold: str, sample_id: int = 0
    ) -> TeacherRecord:
        """Returns one sample, not yet labelled.

        Args:
            question_id: As in `benchmarks.Question.id`.
            question: The question's text.
            rationale: Gold solution, one calculation "a op b = c" per line, without the answer sentence.
            gold: Gold answer, a whole number.
            sample_id: Number of the sample; other numbers give other samples.

        Raises:
            ValueError: If there is no rationale, or `gold` is not a whole number.
        """
        if rationale is None or not gold.isdecimal():
            raise ValueError(
                f"teacher: question {question_id} has the answer {gold!r} and the rationale {rationale!r}; the synthetic "
                "teacher needs a whole number and a rationale."
            )
        rng = random.Random(f"{self._seed}/{question_id}/{sample_id}")
        if self._swap_rate:
            rationale = _swapped(rationale, self._swap_rate, rng)
        text, slip = f"{rationale}\nThe answer is {gold}", None
        if rng.random() < self._error_rate:
            text, slip = _wrong_text(rationale, gold, rng)
        tokens = self._tokenise(text)
        top_k = self._candidates(tokens, rng)
        if slip is not None:
            place, right = slip
            step = next(s for s, end in enumerate(_ends(tokens)) if end > place)
            top_k[step] = _slip_row(tokens[step], f" {right}", rng)
        return TeacherRecord(
            question_id=question_id,
            sample_id=sample_id,
            question=question,
            gold=gold,
            text=text,
            tokens=tuple(tokens),
            top_k=tuple(top_k),
            label=None,
            teacher=TEACHER_NAME,
            decode_settings=self._settings,
        )

    def _tokenise(self, text: str) -> list[str]:
        """Returns the teacher's tokens of `text`; joined they are `text` again."""
        parts = self._parts
        tokens: list[str] = []
        for word in _TOKEN.findall(text):
            if word not in parts:
                parts[word] = _split_word(word)
            tokens.extend(parts[word])
        return tokens

    def _candidates(self, tokens: Sequence[str], rng: random.Random) -> list[Row]:
        """Returns a candidate row for every token."""
        rows, draw = self._rows, rng.random
        top_k = []
        for pair in zip(itertools.chain(["\n"], tokens), tokens):  # noqa: B905, one has a neighbour more
            if pair not in rows:
                rows[pair] = self._make_rows(*pair)
            top_k.append(rows[pair][int(draw() * _NUM_VARIANTS)])
        return top_k

    def _make_rows(self, previous: str, token: str) -> list[Row]:
        """Returns variants of the candidate row of `token` after `previous`."""
        rng = random.Random(f"{self._seed}/{previous}/{token}")
        others, low, high = _kind(previous, token, rng)
        return [_row(token, rng.randint(low, high), others, rng) for _ in range(_NUM_VARIANTS)]


def _swapped(rationale: str, rate: float, rng: random.Random) -> str:
    """Returns the rationale with the operands of some sums and products swapped: "7 * 8 = 56" -> "8 * 7 = 56"."""

    def swap(match: re.Match[str]) -> str:
        left, symbol, right, result = match.groups()
        if symbol not in "+*" or rng.random() >= rate:
            return match[0]
        return f"{right} {symbol} {left} = {result}"

    return _CALCULATION.sub(swap, rationale)


def _split_word(word: str) -> tuple[str, ...]:
    """Returns a long word in two tokens, anything else in one: " marbles" -> (" marb", "les")."""
    letters = word.lstrip(" ")
    if not letters.isalpha() or len(letters) < _SPLIT_LENGTH:
        return (word,)
    place = len(word) - len(letters) + _FIRST_PART_LENGTH
    return word[:place], word[place:]


def _kind(previous: str, token: str, rng: random.Random) -> tuple[Sequence[str], int, int]:
    """Returns other tokens of the same kind, and the bounds of the sampled token's probability in 1e-4 steps."""
    if token.strip().isdecimal():
        others = [token.replace(token.strip(), number) for number in _near(token.strip(), rng)]
        return others, *((8_500, 9_900) if previous == " =" else (9_500, 9_980))
    if previous == "\n":
        return _LINE_STARTS, 8_000, 9_900
    if not token.strip(" ").isalpha():
        return _MARKS, 9_700, 9_999
    return (_WORDS, 8_000, 9_900) if token.startswith(" ") else (_WORD_ENDS, 9_500, 9_990)


def _near(number: str, rng: random.Random) -> list[str]:
    """Returns four numbers that one could take for `number`, none of them `number` itself."""
    value = int(number)
    near = {value + step for step in (1, -1, 2, -2, 10, -10, 5, -5)} | {int(number[::-1])}
    return [str(other) for other in rng.sample(sorted(n for n in near if n > 0 and n != value), 4)]


def _row(token: str, steps: int, others: Sequence[str], rng: random.Random) -> Row:
    """Returns `token` with `steps` 1e-4 steps of probability and four of `others` with parts of the rest."""
    drawn = rng.sample([other for other in others if other != token], len(_SHARES))
    rest = _STEPS_PER_UNIT - steps
    return (
        (token, steps / _STEPS_PER_UNIT),
        *(
            (other, int(rest * share) / _STEPS_PER_UNIT)
            for other, share in zip(drawn, _SHARES, strict=True)
        ),
    )


def _slip_row(token: str, right: str, rng: random.Random) -> Row:
    """Returns the candidates where the teacher slipped: the `right` token leads, the sampled `token` is unlikely."""
    steps = rng.randint(500, 3_300)
    others = [f" {number}" for number in _near(right.strip(), rng)]
    shares = (
        1 / 4,
        1 / 8,
        1 / 16,
    )  # of the sampled token's probability, so that it stays the second
    drawn = rng.sample([other for other in others if other != token], len(shares))
    rest = [(o, int(steps * s) / _STEPS_PER_UNIT) for o, s in zip(drawn, shares, strict=True)]
    lead = (_STEPS_PER_UNIT - 2 * steps) / _STEPS_PER_UNIT
    return ((right, lead), (token, steps / _STEPS_PER_UNIT), *rest)


def _ends(tokens: Sequence[str]) -> Iterator[int]:
    """Yields the character at which each token ends."""
    return itertools.accumulate(len(token) for token in tokens)


def _wrong_text(rationale: str, gold: str, rng: random.Random) -> tuple[str, tuple[int, str]]:
    """Returns a text with a wrong answer, the character at which the first wrong number begins, and the right number."""
    calculations = list(_CALCULATION.finditer(rationale))
    for slip in rng.sample(range(len(calculations)), len(calculations)):
        wrong = rng.choice(_near(calculations[slip][4], rng))
        solution, carried, place = _with_slip(rationale, calculations, slip, wrong)
        if carried.get(gold, gold) != gold:
            return f"{solution}\nThe answer is {carried[gold]}", (place, calculations[slip][4])
    # No calculation leads to the answer, so the slip is in the answer itself.
    solution = f"{rationale}\nThe answer is "
    return solution + rng.choice(_near(gold, rng)), (len(solution), gold)


def _with_slip(
    rationale: str, calculations: Sequence[re.Match[str]], slip: int, wrong: str
) -> tuple[str, dict[str, str], int]:
    """Returns the rationale with a wrong result carried on, which results changed into what, and where the first one is."""
    carried: dict[str, str] = {}
    text, end, place = "", 0, 0
    for number, calculation in enumerate(calculations):
        left, symbol, right, result = calculation.groups()
        operands = (carried.get(left, left), carried.get(right, right))
        new = result if operands == (left, right) else _compute(operands[0], symbol, operands[1])
        if number == slip:
            new = wrong
        if new != result:
            carried[result] = new
        text += (
            rationale[end : calculation.start()] + f"{operands[0]} {symbol} {operands[1]} = {new}"
        )
        end = calculation.end()
        if number == slip:
            place = len(text) - len(new)
    return text + rationale[end:], carried, place


def _compute(left: str, symbol: str, right: str) -> str:
    """Returns the result as a muddled solver writes it: a whole number, at least 1."""
    a, b = int(left), int(right)
    results = {"+": a + b, "-": a - b, "*": a * b, "/": a // max(1, b)}
    return str(max(1, results[symbol]))
