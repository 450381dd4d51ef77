"""The tokens of a teacher record with their probabilities, and where they lie in its text: what pictures of tokens draw.

A student's own tokens are drawn from teacher records, too (`inspection.student`, or decoding with recorded probabilities).
"""

import dataclasses
from collections.abc import Sequence

from cotdistill_jax.teacher import TeacherRecord


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """One token.

    Attributes:
        text: the token as sampled, white space included.
        prob: its probability in [0, 1]; None where it is not among the candidates.
        candidates: distinct (token, probability) pairs by falling probability.
    """

    text: str
    prob: float | None
    candidates: tuple[tuple[str, float], ...]

    @property
    def kept(self) -> float:
        """Probability of all candidates together."""
        return min(1.0, sum(prob for _, prob in self.candidates))


@dataclasses.dataclass(frozen=True)
class PlacedToken:
    """A token, its index in the record, and the characters [start, end) of the text that it stands for."""

    row: TokenRow
    index: int
    start: int
    end: int


class PlacementError(ValueError):
    """Tokens that do not spell the text they are said to be of."""


def token_rows(record: TeacherRecord) -> list[TokenRow]:
    """Returns all tokens of a record, those before and after its text included.

    Example: a row (("It", 0.9), ("The", 0.1), ("It", 0.9)) of the token "It" gives prob 0.9 and two candidates.
    """
    rows = []
    for token, row in zip(record.tokens, record.top_k, strict=True):
        probs = dict(reversed(row))  # a token listed twice counts once, at its first place
        candidates = sorted(probs.items(), key=lambda pair: -pair[1])
        rows.append(TokenRow(token, probs.get(token), tuple(candidates)))
    return rows


def place(record: TeacherRecord) -> list[PlacedToken]:
    """Returns the tokens of a record that belong to its text, each with the characters it stands for.

    A token ends at its last visible character, white space before it belongs to it. Tokens before and after the text
    (prompt's end, stop tokens) are left out, and so is white space around the text.

    Raises:
        PlacementError: nothing but white space in the text, or the tokens do not spell it, white space aside; the message
            shows where they part.

    Example: text "It is", tokens ("\\n", "It", " is", "</s>") -> "It" at [0, 2), " is" at [2, 5).
    """
    rows, text = token_rows(record), record.text
    if not text.strip():
        raise PlacementError(f"report: record {record.key}: its text {text!r} has nothing to draw")
    visible = [place for place, char in enumerate(text) if not char.isspace()]
    first = _first_token([row.text for row in rows], "".join(text.split()))
    placed: list[PlacedToken] = []
    end, done = 0, 0
    for index, row in enumerate(rows[first:], first):
        letters = "".join(row.text.split())
        if done == len(visible):
            break
        if letters != "".join(text[place] for place in visible[done : done + len(letters)]):
            raise PlacementError(
                f"report: record {record.key}: token {row.text!r} does not continue its text after "
                f"{text[:end][-40:]!r}, where {text[end : end + 20]!r} follows"
            )
        done += len(letters)
        start, end = end, _end(row.text, text, end, visible[done - 1] + 1 if letters else None)
        placed.append(PlacedToken(row, index, start, end))
    if done < len(visible):
        raise PlacementError(
            f"report: record {record.key}: its {len(rows)} tokens end before its text does, which goes on with "
            f"{text[end : end + 40]!r}"
        )
    return placed


def _first_token(tokens: Sequence[str], letters: str) -> int:
    """Returns the first token after which all tokens spell `letters`, white space aside; 0 if none does."""
    for first, token in enumerate(tokens):
        spelled = "".join("".join(tokens[first:]).split())
        if token.strip() and spelled.startswith(letters):
            return first
    return 0


def _end(token: str, text: str, begin: int, last_visible: int | None) -> int:
    """Returns where a token ends: after its last visible character and the white space it ends with."""
    end = begin if last_visible is None else last_visible
    own_space = len(token) if last_visible is None else len(token) - len(token.rstrip())
    while own_space and end < len(text) and text[end].isspace():
        end += 1
        own_space -= 1
    return end
