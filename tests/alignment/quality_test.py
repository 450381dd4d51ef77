import json

import pytest

from cotdistill_jax import alignment
from cotdistill_jax.alignment import quality

SAMPLES = [
    # (tokens, top_k, text): soft first piece with 0.75 kept, then one unknown character inside a token
    (["so", " %{"], [[("so", 0.5), ("=", 0.25)], [(" %{", 0.5), (" =", 0.25)]], "so %{"),
    (["so", "\n", "so"], [[("so", 1.0)], [("\n", 0.5)], [("so", 0.5)]], "so\nso"),
    (["so"], [[]], "so"),
    ([], [], ""),
]


def quality_of(samples, vocabulary, method="spans"):
    aligner = alignment.Aligner(vocabulary, method)
    tokens, top_k, texts = zip(*samples, strict=True)
    measured = quality.Quality()
    keys = [(f"q{number}", 0) for number in range(len(samples))]
    measured.add(aligner.align_batch(tokens, top_k, texts), keys, aligner.table)
    return measured


def test_report_counts_by_class_and_reason(small_vocabulary):
    report = quality_of(SAMPLES, small_vocabulary).report()
    assert report["samples"] == {"in": 4, "aligned": 4, "dropped": {}, "text_differs": 0}
    lines = report["by_class"]["line_starts"]
    assert lines == {
        "pieces": 4,
        "soft": 0.75,
        "one_hot": 0.25,
        "kept_mass": pytest.approx((0.75 + 1.0 + 0.25) / 3),
    }
    assert report["by_class"]["unknown"]["pieces"] == 1
    assert report["by_class"]["unknown"]["one_hot"] == 1.0
    assert report["by_class"]["dollar"] == {
        "pieces": 0,
        "soft": None,
        "one_hot": None,
        "kept_mass": None,
    }
    assert sum(report["by_how"].values()) == report["all"]["pieces"]
    assert report["by_how"]["UNKNOWN_PROBABILITY"] == 1
    soft = sum(number for how, number in report["by_how"].items() if alignment.How[how].soft)
    assert sum(report["kept_mass_percents"]) == soft
    assert report["worst"][0]["question_id"] == "q2"
    assert report["worst"][0]["pieces"] == [["▁so", "one-hot, unknown_probability", 1.0]]


def test_dropped_samples_are_counted_by_reason(small_vocabulary):
    samples = [([" step", ":", "so"], [[], [], []], "so"), (["so"], [[("so", 1.0)]], "so")]
    measured = quality_of(samples, small_vocabulary, "dtw")
    measured.leave_out("not_correct", 3)
    measured.leave_out("another reason", 0)
    assert measured.report()["samples"] == {
        "in": 5,
        "aligned": 1,
        "dropped": {"not_correct": 3, "not_the_seeds_shape": 1},
        "text_differs": 0,
    }


def test_parts_add_up_to_the_whole(small_vocabulary):
    whole = quality_of(SAMPLES[:3], small_vocabulary)
    parts = quality.Quality()
    aligner = alignment.Aligner(small_vocabulary)
    for number, (tokens, top_k, text) in enumerate(SAMPLES[:3]):
        part = quality.Quality()
        part.add(aligner.align_batch([tokens], [top_k], [text]), [(f"q{number}", 0)], aligner.table)
        parts.merge(json.loads(json.dumps(part.counts())))
    assert parts.report() == whole.report()


def test_an_empty_corpus_has_a_report(small_vocabulary):
    report = quality.Quality().report()
    assert report["all"] == {"pieces": 0, "soft": None, "one_hot": None, "kept_mass": None}
    assert "0 samples in" in quality.to_html(report, "nothing")


def test_the_page_is_closed_and_escapes_what_the_teacher_said(small_vocabulary):
    samples = [(["<b>", " so"], [[("<b>", 0.5)], [(" so", 0.5)]], "<b> so")]
    page = quality.to_html(quality_of(samples, small_vocabulary).report(), "A & B")
    assert "A &amp; B" in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        ("2", "digits"),
        ("=", "operators"),
        ("$", "dollar"),
        (",", "other"),
        ("▁", "other"),
        ("s", "words"),
        ("<unk>", "unknown"),
    ],
)
def test_classes_of_pieces(small_vocabulary, piece, expected):
    table = alignment.Aligner(small_vocabulary).table
    number = small_vocabulary.piece_to_id(piece)
    assert quality.CLASSES[quality._classes(table)[number]] == expected
