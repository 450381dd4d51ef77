import pyarrow as pa
import pytest

from cotdistill_jax import alignment
from cotdistill_jax.alignment import How


def rows_of(tokens, top_k, text, vocabulary, method="spans"):
    return [
        (row.piece, row.candidates, row.how)
        for row in alignment.align(tokens, top_k, text, vocabulary, method)
    ]


def sure(tokens):
    return [[(token, 1.0)] for token in tokens]


@pytest.mark.real_data
def test_the_docstring_example(t5_vocabulary):
    top_k = [[("If", 0.5), ("The", 0.25)], [(" so", 1.0)]]
    assert rows_of(["If", " so"], top_k, "If so", t5_vocabulary) == [
        ("▁If", {"▁If": 0.5, "▁The": 0.25}, How.AFTER_SPACE),
        ("▁so", {"▁so": 1.0}, How.ONE_TOKEN),
    ]


@pytest.mark.real_data
def test_the_compact_form_holds_the_same_numbers(t5_vocabulary):
    aligner = alignment.Aligner(t5_vocabulary, k=3)
    top_k = [[("The", 0.125), ("If", 0.5), ("Nat", 0.25), ("A", 0.0625)], [(" so", 0.99996)]]
    (sample,) = aligner.align_samples([["If", " so"]], [top_k], ["If so"])
    name = t5_vocabulary.id_to_piece
    assert [[name(int(piece)) for piece in row] for row in sample.teacher_ids] == [
        ["▁If", "▁Nat", "▁The"],
        ["▁so", "<pad>", "<pad>"],
    ]
    assert sample.teacher_probs.tolist() == [[5000, 2500, 1250], [10000, 0, 0]]
    assert sample.piece_ids.tolist() == t5_vocabulary.encode("If so")
    assert sample.how.tolist() == [How.AFTER_SPACE, How.ONE_TOKEN]
    assert (sample.text_differs, sample.rejected) == (False, None)


def test_unknown_method_lists_the_known_ones(small_vocabulary):
    with pytest.raises(KeyError, match=r"unknown method 'words'. Choose one of \['dtw', 'spans'\]"):
        alignment.align(["a"], sure("a"), "a", small_vocabulary, method="words")


@pytest.mark.parametrize("method", ["spans", "dtw"])
def test_a_sample_of_the_wrong_shape_raises_a_named_error(small_vocabulary, method):
    with pytest.raises(
        alignment.SampleShapeError, match="sample 0 has 2 tokens but 1 rows"
    ) as caught:
        alignment.align(
            ["The", " answer"], sure(["The"]), "The answer", small_vocabulary, method=method
        )
    assert caught.value.reason == "rows_do_not_match_tokens"


@pytest.mark.parametrize(
    ("row", "reason", "message"),
    [
        ([("In", float("nan"))], "no_probabilities", "from 0 to 1, got .nan"),
        ([("In", 0.5), ("On", -0.5)], "no_probabilities", "Repair or drop the sample"),
        ([("In", 1.5)], "no_probabilities", "from 0 to 1"),
        ([("In", -0.1), ("On", -2.5)], "no_probabilities", "Take math.exp of log-probabilities"),
        ([("In", None)], "no_pairs", r"expected \(token, probability\) pairs"),
        ([("In",)], "no_pairs", "expected"),
        ([(0.5, "In")], "no_pairs", "expected"),
        ({"01": 0.5}, "no_pairs", "expected"),
        (["01"], "no_pairs", "expected"),
        (0.5, "no_pairs", "expected"),
    ],
)
def test_candidates_that_are_no_probabilities_are_refused(small_vocabulary, row, reason, message):
    with pytest.raises(alignment.SampleShapeError, match=message) as caught:
        alignment.align(["In", " all"], [[], row], "In all", small_vocabulary)
    assert caught.value.reason == reason
    assert "step 1 (' all')" in str(caught.value)


@pytest.mark.parametrize(
    ("token", "candidate", "text"),
    [("\ud800", "a", "a"), ("a", "\ud800", "a"), ("a", "a", "\ud800"), (None, "a", "a")],
)
def test_what_is_no_text_is_refused(small_vocabulary, token, candidate, text):
    with pytest.raises(alignment.SampleShapeError, match="strings that UTF-8 can hold") as caught:
        alignment.align([token], [[(candidate, 0.5)]], text, small_vocabulary)
    assert caught.value.reason == "no_text"


@pytest.mark.parametrize("method", ["spans", "dtw"])
@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_has_no_pieces(small_vocabulary, method, text):
    tokens = [text] if text else []
    assert alignment.align(tokens, sure(tokens), text, small_vocabulary, method=method) == []


def test_a_seqio_vocabulary_is_accepted(small_vocabulary):
    class Vocabulary:  # what seqio.SentencePieceVocabulary offers here; importing SeqIO would bring TensorFlow
        tokenizer = small_vocabulary

    rows = alignment.align(["In"], sure(["In"]), "In", Vocabulary())
    assert rows == alignment.align(["In"], sure(["In"]), "In", small_vocabulary)


@pytest.mark.real_data
@pytest.mark.parametrize("method", ["spans", "dtw"])
def test_arrow_batches_align_like_python_lists(t5_vocabulary, codex_samples, method):
    tokens, top_k, texts = zip(*codex_samples, strict=True)
    batch = pa.RecordBatch.from_pydict(
        {
            "text": texts,
            "tokens": tokens,
            "top_k_tokens": [[[token for token, _ in row] for row in rows] for rows in top_k],
            "top_k_probs": [[[prob for _, prob in row] for row in rows] for rows in top_k],
        }
    )
    by_arrow = alignment.Aligner(t5_vocabulary, method).align_records(batch.slice(3, 20))
    by_lists = alignment.Aligner(t5_vocabulary, method).align_batch(
        tokens[3:23], top_k[3:23], texts[3:23]
    )
    assert by_arrow.candidate_ids.tolist() == by_lists.candidate_ids.tolist()
    assert by_arrow.candidate_probs.tolist() == by_lists.candidate_probs.tolist()
    assert by_arrow.how.tolist() == by_lists.how.tolist()


@pytest.mark.real_data
def test_spans_leave_at_most_a_third_of_the_one_hot_pieces_of_dtw(t5_vocabulary, codex_samples):
    one_hot = {"spans": 0, "dtw": 0}
    for method in one_hot:
        for tokens, top_k, text in codex_samples:
            rows = alignment.align(tokens, top_k, text, t5_vocabulary, method=method)
            assert [row.piece for row in rows] == t5_vocabulary.encode(text, out_type=str)
            for row in rows:
                one_hot[method] += not row.how.soft
                assert 0.0 < row.candidates[row.piece] <= 1.0
                assert sum(row.candidates.values()) <= 1.0 + 1e-12
    assert one_hot["dtw"] == 201
    assert one_hot["spans"] <= one_hot["dtw"] / 3


@pytest.mark.real_data
def test_the_seeds_printed_example(t5_vocabulary, codex_samples):
    rows = alignment.align(*codex_samples[0], t5_vocabulary, method="dtw")
    assert len(rows) == 40
    assert [row.piece for row in rows if not row.how.soft] == ["▁If", "/2", ".", "▁In", ".", "▁The"]
    assert all(row.candidates == {row.piece: 1.0} for row in rows if not row.how.soft)
    assert rows[2].candidates == {"alia": 0.9968, "ilia": 0.0001, "▁sold": 0.0013}
    assert rows[-1].candidates == {
        "▁72": 0.9981,
        "▁24": 0.0001,
        "▁": 0.0004,
        "▁48": 0.0001,
        "▁7": 0.0001,
    }
    mass = [sum(row.candidates.values()) for row in rows if row.how.soft]
    assert (round(min(mass), 4), round(max(mass), 4)) == (0.8452, 0.9998)
