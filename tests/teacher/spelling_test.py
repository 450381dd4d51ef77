import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from cotdistill_jax.teacher import spelling
from cotdistill_jax.teacher.spelling import Token

WORDS = (
    "“",
    "He",
    " has",
    " 3",
    " boxes",
    " of",
    " 12",
    " pens",
    "”",
    " So",
    " “",
    "36",
    "”",
    ".",
    " 😀",
    "!",
)
TEXT = "".join(WORDS)
BYTE_LEVEL = {byte: char for char, byte in spelling._BYTE_LEVEL.items()}


def cut(words):
    """The bytes of the words, every character beyond ASCII in two or more tokens."""
    parts = []
    for word in words:
        raw = word.encode()
        size = len(raw) if word.isascii() else len(raw) - 1
        parts += [part for part in (raw[:size], raw[size:]) if part]
    return parts


def escaped(raw):
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in raw)


def read(tokens, text=TEXT, raws=None):
    named = [Token(t, raws and raws[place]) for place, t in enumerate(tokens)]
    rows = [[(token, 0.5), (Token("zz", raws and b"zz"), 0.25)] for token in named]
    return spelling.respell(named, rows, text)


SERVERS = {
    "bytes beside escapes": lambda parts: ([escaped(p) for p in parts], parts),
    "bytes beside replacement characters": lambda parts: (
        [p.decode(errors="replace") for p in parts],
        parts,
    ),
    "escapes": lambda parts: ([escaped(p) for p in parts], None),
    "bytes: and escapes": lambda parts: (
        [p.decode() if p.isascii() else "bytes:" + escaped(p) for p in parts],
        None,
    ),
    "replacement characters": lambda parts: ([p.decode(errors="replace") for p in parts], None),
    "the whole with its last part": lambda parts: (
        [
            "" if spelling._is_open(p) and not p.startswith(b" ") else p.decode(errors="replace")
            for p in parts
        ],
        None,
    ),
    "byte-level BPE": lambda parts: (["".join(BYTE_LEVEL[b] for b in p) for p in parts], None),
}


@pytest.mark.parametrize("server", SERVERS)
def test_characters_in_several_tokens_are_read_however_they_are_spelled(server):
    tokens, raws = SERVERS[server](cut(WORDS))
    reading = read(tokens, raws=raws)
    assert TEXT in "".join(reading.tokens)
    assert reading.covered == 1.0
    own = dict(zip(reading.tokens, reading.rows, strict=True))
    for word in (" has", " boxes", " of", " 12", " pens", " So", "36", "."):
        assert dict(own[word]) == {word: 0.5, "zz": 0.25}


def test_a_character_in_parts_has_the_product_of_its_parts_and_the_alternatives_of_its_first():
    tokens, raws = SERVERS["bytes beside escapes"](cut(["“", "36"]))
    reading = read(tokens, "“36", raws)
    assert reading.tokens == ("“", "36")
    assert reading.rows[0] == (("“", 0.25), ("zz", 0.25))
    # An alternative last part makes another whole character.
    first, last, other = Token("", b"\xe2\x80"), Token("", b"\x9c"), Token("", b"\x9d")
    rows = [[(first, 0.5), (Token("No"), 0.25)], [(last, 0.75), (other, 0.25)]]
    reading = spelling.respell([first, last], rows, "“")
    assert dict(reading.rows[0]) == {"“": 0.375, "No": 0.25, "”": 0.125}
    # Where the sampled part's probability is unknown, so is all that follows.
    assert spelling.respell([first, last], [rows[0][1:], rows[1]], "“").rows == ((),)


@pytest.mark.parametrize(
    ("tokens", "text", "expected", "name"),
    [
        (["ĠIt", "Ġis", "Ċ", "Ġ4"], "It is\n 4", (" It", " is", "\n", " 4"), "byte-level BPE"),
        (["▁It", "▁is", "<0x0A>", "▁4"], "It is\n 4", (" It", " is", "\n", " 4"), "SentencePiece"),
        (["▁", "<0xE2>", "<0x82>", "<0xAC>", "5"], "€5", (" ", "€", "5"), "SentencePiece"),
        (["it</w>", "is</w>", "4</w>"], "it is 4", ("it ", "is ", "4 "), "word ends"),
        (["It", "is", "4", "."], "It is 4.", ("It", " is", " 4", "."), "spaces left out"),
        (
            ["It", "is", "", "So", "4"],
            "It is\n\nSo 4",
            ("It", " is", "\n\n", "So", " 4"),
            "spaces left out",
        ),
        (
            ["<think>", "It", "</think>", "It", "is"],
            "It is",
            ("<think>", "It", "</think>", "It", " is"),
            "spaces left out",
        ),
        (["It", " is"], "It is", ("It", " is"), "text"),
    ],
)
def test_alphabets_and_missing_spaces(tokens, text, expected, name):
    reading = read(tokens, text)
    assert reading.tokens[-len(expected) :] == expected or "".join(reading.tokens) == text
    assert (reading.spelling, reading.covered) == (name, 1.0)


def test_candidates_are_read_like_their_token():
    reading = read(["He", "has", "3"], "He has 3")
    assert reading.rows[1] == ((" has", 0.5), (" zz", 0.25))
    row = [(Token("Ġ4"), 0.5), (Token("Ġé".replace("é", "Ã©")), 0.25)]
    assert spelling.respell([Token("Ġ4")], [row], "4").rows == (((" 4", 0.5), (" é", 0.25)),)


@pytest.mark.parametrize(
    ("tokens", "text", "kind"),
    [
        ([], "It is", "no tokens"),
        (["token_id:5", "token_id:77"], "It is", "token ids"),
        (["5", "77"], "It is", "token ids"),
        (["So", " what"], "It is", "another text"),
        (["\n", "It", " is"], "It is", ""),
    ],
)
def test_what_no_spelling_explains_is_named_and_left_as_it_is(tokens, text, kind):
    assert spelling.kind(tokens, text) == kind
    assert read(tokens, text).tokens == tuple(tokens)


def test_several_places_that_differ_cost_their_own_tokens_only():
    tokens = ["He", " has", "�", " 3", " boxes", " of", " 4", " pens", "�", "�", ",", " so", " 12"]
    text = "He has – 3 boxes of 5 pens…, so 12"
    reading = read(tokens, text)
    own = dict(zip(reading.tokens, reading.rows, strict=True))
    assert all(
        dict(own[word])[word] == 0.5 for word in ("He", " 3", " boxes", " of", ",", " so", " 12")
    )
    groups, spelled = spelling.fit(tokens, text)
    assert not spelled
    assert [tokens[g.first] for g in groups if not g.exact] == ["�", " 4", "�"]


@hypothesis.given(
    tokens=st.lists(st.text("ab �é“", max_size=3), max_size=9), text=st.text("ab é“", max_size=14)
)
def test_every_token_is_in_one_group_and_exact_groups_agree(tokens, text):
    groups, _ = spelling.fit(tokens, text)
    assert [place for g in groups for place in range(g.first, g.last)] == list(range(len(tokens)))
    placed = [g for g in groups if g.start != spelling.NOT_PLACED]
    assert all(one.end <= other.start for one, other in itertools.pairwise(placed))
    for group in placed:
        assert 0 <= group.start < group.end <= len(text)
        assert not group.exact or text[group.start : group.end] in tokens[group.first]


@hypothesis.given(
    words=st.lists(st.text("aé“😀 ", min_size=1, max_size=3), min_size=1, max_size=6),
    server=st.sampled_from(sorted(SERVERS)),
)
def test_rows_stay_distributions(words, server):
    tokens, raws = SERVERS[server](cut(words))
    reading = read(tokens, "".join(words), raws)
    assert len(reading.tokens) == len(reading.rows)
    for row in reading.rows:
        assert len(dict(row)) == len(row)
        assert sum(prob for _, prob in row) <= 1.0
