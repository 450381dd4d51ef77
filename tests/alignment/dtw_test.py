import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from cotdistill_jax import alignment
from cotdistill_jax.alignment import How, dtw


def reference_rows(tokens, top_k, text, processor):
    """The seed's rule as written, with a whole matrix: [(piece, candidates)]."""
    pieces = [processor.id_to_piece(piece) for piece in processor.encode(text)]
    cost = np.full((len(tokens) + 1, len(pieces) + 1), np.inf)
    cost[0, 0] = 0
    for i, token in enumerate(tokens):
        for j, piece in enumerate(pieces):
            distance = Levenshtein.distance(token.replace(" ", ""), piece.replace("▁", ""))
            cost[i + 1, j + 1] = distance + min(cost[i, j], cost[i, j + 1], cost[i + 1, j])
    i, j = len(tokens), len(pieces)
    paired = {(i, j)}
    while (i, j) != (1, 1):
        options = [cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]]
        down, left = [(1, 1), (1, 0), (0, 1)][int(np.argmin(options))]
        i, j = i - down, j - left
        paired.add((i, j))
    rows = []
    for column, piece in enumerate(pieces):
        steps = [i - 1 for i, j in paired if j - 1 == column]
        if len(steps) != 1 or tokens[steps[0]].replace(" ", "▁") != piece:
            rows.append((piece, {piece: 1.0}))
            continue
        candidates = {}
        for token, prob in top_k[steps[0]]:
            name = token.replace(" ", "▁")
            if processor.piece_to_id(name) != processor.unk_id():
                candidates.setdefault(name, prob)
        rows.append((piece, candidates))
    return rows


def aligned_rows(tokens, top_k, text, processor):
    return [
        (row.piece, row.candidates)
        for row in alignment.align(tokens, top_k, text, processor, method="dtw")
    ]


@pytest.mark.real_data
def test_the_real_samples_equal_the_reference_row_by_row(t5_vocabulary, codex_samples):
    for tokens, top_k, text in codex_samples:
        assert aligned_rows(tokens, top_k, text, t5_vocabulary) == reference_rows(
            tokens[2:-2], top_k[2:-2], text, t5_vocabulary
        )


WORDS = [
    "sold",
    " 48",
    " clips",
    "/",
    "2",
    "\n",
    "So",
    " a",
    " é",
    "<",
    " $",
    "12",
    ".",
    " apples",
    "ss",
    " 1,0",
]


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=25), seed=st.integers(0, 1000)
)
def test_any_sample_equals_the_reference(small_vocabulary, words, seed):
    draw = random.Random(seed)
    text = "".join(words).strip()
    hypothesis.assume(text)
    # The answer between the seed's markers need not spell the text.
    tokens = [word for word in words if draw.random() < 0.8] or ["The"]
    top_k = [[(token, 0.5)] + [(draw.choice(WORDS), 0.1) for _ in range(4)] for token in tokens]
    wrapped = [" step", "\n", *tokens, "\n\n", "\n"]
    wrapped_top_k = [[], [], *top_k, [], []]
    expected = reference_rows(tokens, top_k, text, small_vocabulary)
    assert aligned_rows(wrapped, wrapped_top_k, text, small_vocabulary) == expected


def test_unrelated_series_are_paired_like_the_reference(small_vocabulary):
    # A token of more letters than a word has bits, and letters that the vocabulary does not have.
    tokens = ["x" * 30, "Natalia" * 10 + "\u4e16", "\u4e16", "answer"]
    top_k = [[(token, 1.0)] for token in tokens]
    text = "In total, then, Natalia had 3 + 4 = 7 clips."
    wrapped = [" step", "\n", *tokens, "\n", "\n"]
    expected = reference_rows(tokens, top_k, text, small_vocabulary)
    assert aligned_rows(wrapped, [[], [], *top_k, [], []], text, small_vocabulary) == expected


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        ([" step", "\n", "It", "\n", "\n"], "It", slice(2, 3)),
        ([" step", "\n", "It", "\n\n", "\n"], "something else", slice(2, 3)),
        (["It", " is"], "It is", slice(0, 2)),
        (["\n", "It", " is", "\n"], "\nIt is\n", slice(1, 3)),
        (["\n", "It", " is", "\n"], "It is", "not_the_seeds_shape"),
        (["\n"], "\n", slice(1, 1)),
        ([], "", slice(0, 0)),
        ([" step", ":", "It"], "It", "not_the_seeds_shape"),
        ([" step", "\n", "It", "\n"], "It", "not_the_seeds_shape"),
        ([" step", "\n", "It", "\n", "\n\n"], "It", "not_the_seeds_shape"),
        ([" steps", "\n", "It", "\n", "\n"], "It", "not_the_seeds_shape"),
        ([" step", "\n", "\n", "\n"], "It", "not_the_seeds_shape"),
        ([], "It", "not_the_seeds_shape"),
    ],
)
def test_answer_steps(tokens, text, expected):
    assert dtw.answer_steps(tokens, text) == expected


def test_a_rejected_sample_is_counted_in_a_batch_and_raises_alone(small_vocabulary):
    tokens = [["In"], [" step", ":", "In"], ["In"]]
    top_k = [[[(token, 1.0)] for token in sample] for sample in tokens]
    texts = ["In", "In", "In"]
    samples = alignment.Aligner(small_vocabulary, "dtw").align_samples(tokens, top_k, texts)
    assert [sample.rejected for sample in samples] == [None, "not_the_seeds_shape", None]
    assert [len(sample.piece_ids) > 0 for sample in samples] == [True, False, True]
    with pytest.raises(
        alignment.SampleShapeError, match="dtw rejects 'In': not_the_seeds_shape"
    ) as caught:
        alignment.align(tokens[1], top_k[1], "In", small_vocabulary, method="dtw")
    assert caught.value.reason == "not_the_seeds_shape"


def test_a_sampled_token_without_probability_is_one_hot(small_vocabulary):
    pieces = small_vocabulary.encode("4 =", out_type=str)
    tokens = [piece.replace("▁", " ") for piece in pieces]
    top_k = [*([(token, 1.0)] for token in tokens[:-1]), [("+", 0.5)]]
    row = alignment.align(tokens, top_k, "".join(tokens), small_vocabulary, method="dtw")[-1]
    assert row == (pieces[-1], {pieces[-1]: 1.0}, How.UNKNOWN_PROBABILITY)
