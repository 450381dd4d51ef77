import hypothesis
import pytest
from hypothesis import strategies as st

from cotdistill_jax import alignment
from cotdistill_jax.alignment import How, steps


@pytest.mark.parametrize(
    ("tokens", "text", "starts", "differs", "known"),
    [
        (["It", " is"], "It is", [0, 2], False, [1, 1]),
        (["\n", "It", " is", "\n"], "It is", [-1, 0, 2, -1], False, [1] * 4),
        ([" step", "\n", "It", "\n", "\n"], "It", [-1, -1, 0, -1, -1], False, [1] * 5),
        ([" It", " is\n"], "It is", [0, 2], False, [1, 1]),
        (["It", " is"], "\n It is ", [2, 4], False, [1, 1]),
        (["s", "s", "s"], "s", [-1, -1, 0], False, [1, 1, 1]),  # thoughts come before the answer
        (["36", "?", "\n", " 36", ".", "\n36", "<e>"], "36", [-1] * 5 + [0, -1], False, [1] * 7),
        (["a", "X", "bc", "Y", "de"], "a1bc2de", [0, 1, 2, 4, 5], True, [1, 0, 1, 0, 1]),
        (["ab", "XX", "cd"], "ab12cd", [0, 2, 4], True, [1, 0, 1]),
        (["ab", "X", "Y", "cd"], "ab12cd", [0, 2, -1, 4], True, [1, 0, 1, 1]),
        (["ab", "cd"], "ab12cd", [0, 4], True, [1, 1]),
        (["ab", "12", "cd"], "abcd", [0, -1, 2], True, [1, 0, 1]),
        (["aXb"], "aYb", [0], True, [0]),
        ([], "ab", [], True, []),
        (["ab"], "", [-1], False, [1]),
    ],
)
def test_place_tokens(tokens, text, starts, differs, known):
    got_starts, got_differs, got_known = steps.place_tokens(tokens, text)
    assert got_starts.tolist() == starts
    assert got_differs == differs
    assert got_known.tolist() == [bool(flag) for flag in known]


@hypothesis.given(
    tokens=st.lists(st.text("ab \n", max_size=3), max_size=8), text=st.text("ab \n", max_size=12)
)
def test_placed_tokens_lie_in_the_text_in_order_and_known_ones_agree_with_it(tokens, text):
    starts, differs, known = steps.place_tokens(tokens, text)
    placed = [
        (int(start), token) for start, token in zip(starts, tokens, strict=True) if start >= 0
    ]
    assert [start for start, _ in placed] == sorted(start for start, _ in placed)
    assert all(start <= len(text) for start, _ in placed)
    if differs:
        agreeing = [
            (start, token)
            for start, token, flag in zip(starts, tokens, known, strict=True)
            if flag and start >= 0
        ]
        assert all(text.startswith(token, start) for start, token in agreeing)
    else:
        assert "".join(token for _, token in placed).lstrip().startswith(text.strip())


@pytest.mark.real_data
def test_a_text_that_differs_from_its_tokens_keeps_what_agrees(t5_vocabulary):
    tokens = ["She", " sold", " 48", " clips", " in", " May"]
    top_k = [[(token, 0.5)] for token in tokens]
    (sample,) = alignment.Aligner(t5_vocabulary).align_samples(
        [tokens], [top_k], ["She sold 24 clips in May"]
    )
    names = [t5_vocabulary.id_to_piece(int(piece)) for piece in sample.piece_ids]
    assert names == ["▁She", "▁sold", "▁24", "▁clips", "▁in", "▁May"]
    assert sample.text_differs
    assert [How(how).soft for how in sample.how] == [True, True, False, True, True, True]
    assert sample.teacher_probs[:, 0].tolist() == [5000, 5000, 10000, 5000, 5000, 5000]


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    tokens=st.lists(
        st.sampled_from(["In", " April", "\n", " 48", "48", ",", " {", "é", "", " "]), max_size=10
    ),
    words=st.lists(
        st.sampled_from(["In", " April", "\n", " 48", "48", ",", " {", "é", " "]), max_size=10
    ),
)
def test_any_pair_of_tokens_and_text_gives_valid_rows(small_vocabulary, tokens, words):
    text = "".join(words)
    rows = alignment.align(
        tokens, [[(token, 0.5), (" 48", 0.25)] for token in tokens], text, small_vocabulary
    )
    assert [row.piece for row in rows] == [
        small_vocabulary.id_to_piece(i) for i in small_vocabulary.encode(text)
    ]
    for row in rows:
        assert 0.0 < row.candidates[row.piece] <= 1.0
        assert sum(row.candidates.values()) <= 1.0 + 1e-12
        assert row.how.soft or row.candidates == {row.piece: 1.0}
