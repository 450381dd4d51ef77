r"""Where a teacher's tokens lie in its text, however a server spells them.

| spelling | tokens of " “7" |
|---|---|
| text | `" “7"` |
| raw bytes beside the text (OpenAI, DeepSeek) | `" \xe2\x80"` + `[32, 226, 128]`, `"\x9c7"` + `[156, 55]` |
| escapes (completions of OpenAI) | `"bytes: \xe2\x80"`, `"bytes:\x9c"`, `"7"` |
| byte-level BPE, as GPT-2's, Llama 3's and Qwen's vocabularies spell | `"ĠâĢľ"`, `"7"` |
| SentencePiece, as T5's, Llama 2's and Mistral's vocabularies spell | `"▁"`, `"<0xE2>"`, `"<0x80>"`, `"<0x9C>"`, `"7"` |
| word ends | `"“</w>"`, `"7</w>"` |
| replacement characters (vLLM, TGI) | `" �"`, `"�"`, `"7"` |
| spaces left out | `"“"`, `"7"` |

`respell` finds out which one it is by the text itself, which is right in any case, and gives tokens that spell it. Tokens that hold parts
of one character become one step, by the chain rule: an alternative to the first part counts as it is, the whole character counts
the product of its parts. What no spelling explains stays as it is; `fit` says which tokens agree with the text all the same.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

NOT_PLACED = -1
_REPLACEMENT = "\ufffd"
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_TOKEN_ID = re.compile(r"\s*(?:token_id:|<?\|?token_)?\d+\s*")
# Tokens and characters that are passed over in search of the next place where tokens and text agree.
_MOST_SKIPPED_TOKENS = 32
_MOST_SKIPPED_CHARS = 160
_ANCHOR_CHARS = 6
# No character has more bytes; more tokens than this hold no one character.
_MOST_TOKENS_OF_A_CHARACTER = 4


class Token(NamedTuple):
    """A token as a server gives it: its spelling, and its bytes where the server gives them, too."""

    text: str
    raw: bytes | None = None


Row = tuple[tuple[str, float], ...]
TokenRow = Sequence[tuple[Token, float]]


@dataclasses.dataclass(frozen=True)
class Group:
    """Tokens `first` to `last` (exclusive) that stand for the characters `start` to `end` of the text.

    Attributes:
        first: first token.
        last: after the last one.
        start: first character; NOT_PLACED for tokens that are no part of the text.
        end: after the last character.
        exact: whether it is one token that spells these characters.
    """

    first: int
    last: int
    start: int
    end: int
    exact: bool


@dataclasses.dataclass(frozen=True)
class Reading:
    """Tokens and candidates as text.

    Attributes:
        tokens: T tokens; fewer than were given where parts of characters were put together.
        rows: T rows of (candidate, probability).
        spelling: a key of `SPELLINGS`, or "spaces left out", or "replacement characters".
        covered: share of the text's characters that its tokens spell, in [0, 1].
    """

    tokens: tuple[str, ...]
    rows: tuple[Row, ...]
    spelling: str
    covered: float


def _byte_level_alphabet() -> dict[str, int]:
    """Returns GPT-2's alphabet of bytes: printable ones are themselves, the others follow from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + place): byte for place, byte in enumerate(others)},
    }


_BYTE_LEVEL = _byte_level_alphabet()


def _text(token: Token) -> bytes:
    return token.text.encode()


def _raw(token: Token) -> bytes:
    return token.text.encode() if token.raw is None else token.raw


def _escaped(token: Token) -> bytes:
    spelled = token.text.removeprefix("bytes:").encode()
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), spelled)


def _byte_level(token: Token) -> bytes:
    return b"".join(
        bytes([_BYTE_LEVEL[char]]) if char in _BYTE_LEVEL else char.encode() for char in token.text
    )


def _sentencepiece(token: Token) -> bytes:
    byte = _BYTE_PIECE.fullmatch(token.text)
    return bytes([int(byte[1], 16)]) if byte else token.text.replace("▁", " ").encode()


def _word_ends(token: Token) -> bytes:
    return token.text.replace("</w>", " ").encode()


SPELLINGS: Mapping[str, Callable[[Token], bytes]] = {
    "text": _text,
    "raw bytes": _raw,
    "escapes": _escaped,
    "byte-level BPE": _byte_level,
    "SentencePiece": _sentencepiece,
    "word ends": _word_ends,
}


def respell(tokens: Sequence[Token], rows: Sequence[TokenRow], text: str) -> Reading:
    """Returns tokens that spell the text, as far as any spelling explains them.

    Args:
        tokens: as sampled; more than those of the text are allowed at both ends.
        rows: per token its (candidate, probability) pairs, empty where unknown.
        text: what they spell, white space at its ends aside.

    Example:
        >>> respell([Token("ĠIt"), Token("Ġis")], [[(Token("ĠIt"), 0.5)], []], "It is").tokens
        (' It', ' is')
    """
    core = text.strip()
    readings: list[tuple[str, list[bytes], list[tuple[int, int]]]] = []
    for name, spell in SPELLINGS.items():
        spelled = [spell(token) for token in tokens]
        if readings and spelled == readings[0][1]:
            continue
        places = _whole_characters(spelled)
        if spells(_decoded(spelled, places), core):
            return _read(name, spelled, places, rows, core)
        readings.append((name, spelled, places))
    for name, spelled, _ in readings:
        strings = [part.decode(errors="replace") for part in spelled]
        spaced = _with_spaces(strings, core)
        if spaced is not None:
            return _put_spaces(spaced, strings, rows, SPELLINGS[name])
    name, spelled, places = max(
        readings, key=lambda reading: _agreement(_decoded(*reading[1:]), core)
    )
    return _fill_replacements(_read(name, spelled, places, rows, core), core)


def spells(tokens: Sequence[str], text: str) -> bool:
    """Returns whether tokens spell a text from the beginning of one of them on, white space at its ends aside."""
    return "".join(tokens).strip() == text.strip() or _exact(tokens, text) is not None


def kind(tokens: Sequence[str], text: str) -> str:
    """Returns what is wrong with tokens as they are, in words: "no tokens", "token ids", "another text", or "" where they spell the text."""
    if not tokens:
        return "no tokens"
    if spells(tokens, text):
        return ""
    if all(_TOKEN_ID.fullmatch(token) for token in tokens if token):
        return "token ids"
    return "another text"


def fit(tokens: Sequence[str], text: str) -> tuple[list[Group], bool]:
    """Returns where tokens lie in a text, every token in exactly one group, in order, and whether they spell it.

    First choice: the text, white space at its ends aside, begins at some token and the tokens spell it. Of several such places the last
    one counts: what a model thinks before its answer may hold the same words. Otherwise tokens and text are followed from both ends, and
    where they part, to the next place where several characters agree again; what lies between is one group that is not exact.
    """
    exact = _exact(tokens, text)
    if exact is not None:
        return exact, True
    behind = _walk([token[::-1] for token in reversed(tokens)], text[::-1])
    size, length = len(tokens), len(text)
    groups = [
        Group(size - g.last, size - g.first, length - g.end, length - g.start, g.exact)
        for g in reversed(behind)
    ]
    first = groups[0].first if groups else size
    start = groups[0].start if groups else length
    before = _walk(tokens[:first], text[:start]) if start else []
    middle, begin = (before[-1].last, before[-1].end) if before else (0, 0)
    if middle < first:
        before.append(Group(middle, first, begin, start, False))
    placed = [
        group
        if group.start < group.end
        else dataclasses.replace(group, start=NOT_PLACED, end=NOT_PLACED)
        for group in (*before, *groups)
    ]
    return placed, False


def _exact(tokens: Sequence[str], text: str) -> list[Group] | None:
    """Returns one group per token where the tokens spell the text; places of text that begins within a token's white space count."""
    core, joined = text.strip(), "".join(tokens)
    lead = len(text) - len(text.lstrip())
    begins, place = [], 0
    for token in tokens:
        begins.append(place)
        place += len(token)
    ends = {begin + len(token.rstrip()) for begin, token in zip(begins, tokens, strict=True)}
    places = [
        shift
        for begin, token in zip(begins, tokens, strict=True)
        if joined.startswith(core, shift := begin + len(token) - len(token.lstrip()))
    ]
    if not places:
        return None
    whole = [shift for shift in places if shift + len(core) in ends]
    shift = (whole or places)[-1]
    groups = []
    for number, (begin, token) in enumerate(zip(begins, tokens, strict=True)):
        start, end = begin - shift + lead, begin - shift + lead + len(token)
        placed = end > lead and start < lead + len(core)
        groups.append(
            Group(number, number + 1, max(start, lead), min(end, lead + len(core)), True)
            if placed
            else Group(number, number + 1, NOT_PLACED, NOT_PLACED, True)
        )
    return groups


def _walk(tokens: Sequence[str], text: str) -> list[Group]:
    """Returns groups from the beginning on, as far as tokens and text can be followed together."""
    groups, token, place = [], 0, 0
    while token < len(tokens) and place < len(text):
        size = len(tokens[token])
        if text.startswith(tokens[token], place):
            groups.append(Group(token, token + 1, place, place + size, True))
            token, place = token + 1, place + size
            continue
        found = _next_agreement(tokens, text, token, place)
        if found is None:
            return groups
        if found[0] > token:
            groups.append(Group(token, found[0], place, found[1], False))
        token, place = found
    return groups


def _next_agreement(
    tokens: Sequence[str], text: str, token: int, place: int
) -> tuple[int, int] | None:
    """Returns the next token, and its place, at which several characters of tokens and text agree; None if none is near."""
    for skipped in range(min(_MOST_SKIPPED_TOKENS, len(tokens) - token)):
        for anchor in _anchors(tokens[token + skipped :]):
            # Few characters are found anywhere, so they must be near.
            near = _MOST_SKIPPED_CHARS if len(anchor) >= _ANCHOR_CHARS else 4 * skipped
            found = text.find(anchor, place, place + near + len(anchor))
            if found >= 0:
                return token + skipped, found
    return None


def _anchors(tokens: Sequence[str]) -> list[str]:
    """Returns what the next tokens spell, as many as make an anchor and then fewer, down to the first one alone."""
    anchors, anchor = [], ""
    for token in tokens:
        if len(anchor) >= _ANCHOR_CHARS or _REPLACEMENT in token:
            break
        anchor += token
        if anchor.strip():
            anchors.append(anchor)
    return anchors[::-1]


def _agreement(tokens: Sequence[str], core: str) -> int:
    """Returns how many characters of the text agree with tokens."""
    return sum(group.end - group.start for group in fit(tokens, core)[0] if group.exact)


def _covered(tokens: Sequence[str], core: str) -> float:
    return _agreement(tokens, core) / len(core) if core and tokens else 1.0


def _whole_characters(spelled: Sequence[bytes]) -> list[tuple[int, int]]:
    """Returns the first token and the one after the last of every step: one token, or several that hold parts of one character."""
    places, first = [], 0
    for last in range(1, len(spelled) + 1):
        is_part = last < len(spelled) and last - first < _MOST_TOKENS_OF_A_CHARACTER
        if not (is_part and _is_open(b"".join(spelled[first:last]))):
            places.append((first, last))
            first = last
    return places


def _decoded(spelled: Sequence[bytes], places: Sequence[tuple[int, int]]) -> list[str]:
    return [b"".join(spelled[first:last]).decode(errors="replace") for first, last in places]


def _read(
    name: str,
    spelled: Sequence[bytes],
    places: Sequence[tuple[int, int]],
    rows: Sequence[TokenRow],
    core: str,
) -> Reading:
    """Returns steps of whole characters with their candidates."""
    spell = SPELLINGS[name]
    decoded = [[(spell(token), prob) for token, prob in row] for row in rows]
    tokens = _decoded(spelled, places)
    chains = tuple(_chain(spelled[first:last], decoded[first:last]) for first, last in places)
    return Reading(tuple(tokens), chains, name, _covered(tokens, core))


def _is_open(part: bytes) -> bool:
    """Returns whether bytes end within a character."""
    try:
        part.decode()
    except UnicodeDecodeError as error:
        return error.end == len(part) and error.reason == "unexpected end of data"
    return False


def _chain(parts: Sequence[bytes], rows: Sequence[Sequence[tuple[bytes, float]]]) -> Row:
    """Returns the candidates of several steps that are one: alternatives of each, and the whole, by the chain rule.

    Empty where the probability of a part that was sampled is not known, as then nothing is known of what follows.
    """
    found: dict[str, float] = {}
    before, weight = b"", 1.0
    for number, (part, row) in enumerate(zip(parts, rows, strict=True)):
        probs = dict(reversed(row))
        is_last = number == len(parts) - 1
        if not row or (part not in probs and not is_last):
            return ()
        for candidate in dict(row):
            if candidate == part and not is_last:
                continue
            try:
                whole = (before + candidate).decode()
            except UnicodeDecodeError:
                # A part of a character that was not sampled says nothing about whole characters; one step's own token stays.
                if len(parts) > 1 or candidate != part:
                    continue
                whole = candidate.decode(errors="replace")
            found.setdefault(whole, weight * probs[candidate])
        before, weight = before + part, weight * probs.get(part, 0.0)
    return tuple(sorted(found.items(), key=lambda pair: pair[0].encode() != before))


def _fill_replacements(reading: Reading, core: str) -> Reading:
    """Returns the reading with the text's own characters where tokens hold replacement characters for parts of them."""
    tokens: list[str] = []
    rows: list[Row] = []
    filled = False
    for group in fit(reading.tokens, core)[0]:
        parts = reading.tokens[group.first : group.last]
        broken = any(_REPLACEMENT in part for part in parts)
        if group.exact or group.start == NOT_PLACED or not broken:
            tokens.extend(parts)
            rows.extend(reading.rows[group.first : group.last])
            continue
        whole, filled = core[group.start : group.end], True
        tokens.append(whole)
        rows.append(_row_of_whole(whole, parts, reading.rows[group.first : group.last]))
    name = "replacement characters" if filled else reading.spelling
    return Reading(tuple(tokens), tuple(rows), name, _covered(tokens, core))


def _row_of_whole(whole: str, parts: Sequence[str], rows: Sequence[Row]) -> Row:
    """Returns the candidates of a character whose parts cannot be read: it itself by the chain rule, and the alternatives to its first part."""
    weight = 1.0
    for part, row in zip(parts, rows, strict=True):
        prob = dict(reversed(row)).get(part)
        if prob is None:
            return ()
        weight *= prob
    others = [pair for pair in rows[0] if pair[0] != parts[0] and _REPLACEMENT not in pair[0]]
    return ((whole, weight), *(pair for pair in others if pair[0] != whole))


def _with_spaces(tokens: Sequence[str], core: str) -> list[str] | None:
    """Returns the tokens with the white space that the text has before them; None where they do not spell it even so."""
    for first in reversed(range(len(tokens))):
        spaced, place = list(tokens), 0
        for number in range(first, len(tokens)):
            if place == len(core):
                break
            token = tokens[number]
            body = place
            if not (token and core.startswith(token, place)):
                while body < len(core) and core[body].isspace():
                    body += 1
                token = token.strip()
                if not core.startswith(token, body):
                    break
            spaced[number] = core[place : body + len(token)]
            place = body + len(token)
        if place == len(core) and core:
            return spaced
    return None


def _put_spaces(
    spaced: Sequence[str],
    strings: Sequence[str],
    rows: Sequence[TokenRow],
    spell: Callable[[Token], bytes],
) -> Reading:
    """Returns tokens with their white space; candidates that begin a word get the same, as they stand in the same place."""
    found = []
    for token, string, row in zip(spaced, strings, rows, strict=True):
        space = token[: len(token) - len(token.lstrip())] if token != string else ""
        named: dict[str, float] = {}
        for candidate, prob in row:
            name = spell(candidate).decode(errors="replace")
            if name == string:
                name = token
            elif name[:1].isalnum():
                name = space + name
            named.setdefault(name, prob)
        found.append(tuple(named.items()))
    return Reading(tuple(spaced), tuple(found), "spaces left out", 1.0)
