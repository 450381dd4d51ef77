"""The texts of the seed's files: questions, answers and samples with their labels in front, and what they stand for.

Source: FranxYao/FlanT5-CoT-Specialization, scripts/ and src/utils.py at commit a8ffd51.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

Pair = tuple[str, float]
Step = tuple[Pair, ...]

_QUESTION = re.compile(r"Question (\d+): (.*)", re.DOTALL)
_SAMPLE = re.compile(r"Model output \d+: ?(.*)", re.DOTALL)
_ANSWER = "Answer: "
_GOLD_MARK = "#### "
# What FlanT5's tokenizer prints around a text, and the mark it has where text has a space.
_SPECIAL_PIECES = ("<pad>", "</s>")
_PIECE_SPACE = "▁"


class SeedFileError(ValueError):
    """A file that is not as the seed wrote it; the message names file, record, got, expected and fix."""


@dataclasses.dataclass(frozen=True)
class Flavour:
    """A teacher of the seed, and how its files differ.

    Attributes:
        name: as in the names of the pickles, `{name}_predictions.pkl`.
        teacher: name for the records.
        decode_settings: what is known about how it decoded.
        spells_pieces: whether its tokens are SentencePiece pieces.
    """

    name: str
    teacher: str
    decode_settings: Mapping[str, Any]
    spells_pieces: bool


_PROMPT = {"prompt": "complex_chain_of_thought", "max_tokens": 256, "top_logprobs": 5}
FLAVOURS: Mapping[str, Flavour] = MappingProxyType(
    {
        "codex": Flavour("codex", "code-davinci-002", {"temperature": 0.5, **_PROMPT}, False),
        "flan": Flavour("flan", "google/flan-t5-xxl", {"temperature": 1.0, **_PROMPT}, True),
    }
)


def parse_question(text: str, where: str) -> tuple[int, str]:
    """Returns number and text of a question.

    Example: `"Question 12: What is 1 + 1?\\n"` gives `(12, "What is 1 + 1?")`.

    Args:
        text: as the file has it.
        where: file and record, for the error.

    Raises:
        SeedFileError: it is no such text.
    """
    match = _QUESTION.match(text)
    if match is None:
        raise SeedFileError(f"{where}: expected 'Question <number>: ...', got {text[:60]!r}.")
    return int(match[1]), match[2].strip()


def parse_gold(text: str, where: str) -> str:
    """Returns the gold answer of a worked solution.

    Example: `"Answer: 1+1=<<1+1=2>>2.\\n#### 2\\n"` gives `"2"`.

    Raises:
        SeedFileError: it is no such text; arguments as for `parse_question`.
    """
    _, mark, gold = text.rpartition(_GOLD_MARK)
    if not text.startswith(_ANSWER) or not mark or not gold.strip():
        raise SeedFileError(
            f"{where}: expected 'Answer: ...' with a last line '#### <number>', got {text[-60:]!r}."
        )
    return gold.strip()


def parse_sample(text: str, flavour: Flavour, where: str) -> str:
    """Returns the answer of a sample: without its label, surrounding white space and the tokenizer's special pieces.

    Example: `"Model output 3: \\nIt is 2\\n"` gives `"It is 2"`.

    Raises:
        SeedFileError: it is no such text; arguments as for `parse_question`.
    """
    match = _SAMPLE.match(text)
    if match is None:
        raise SeedFileError(f"{where}: expected 'Model output <number>: ...', got {text[:60]!r}.")
    answer = match[1]
    if flavour.spells_pieces:
        for piece in _SPECIAL_PIECES:
            answer = answer.replace(piece, "")
    return answer.strip()


def spell(steps: Sequence[Step], flavour: Flavour) -> Sequence[Step]:
    """Returns the steps with tokens that spell text: pieces get their spaces, and steps of special pieces are left out.

    Example (flan): `[(("▁It", 0.5),), (("</s>", 1.0),)]` gives `[((" It", 0.5),)]`.
    """
    if not flavour.spells_pieces:
        return steps
    return [
        tuple((token.replace(_PIECE_SPACE, " "), prob) for token, prob in step)
        for step in steps
        if step[0][0] not in _SPECIAL_PIECES
    ]
