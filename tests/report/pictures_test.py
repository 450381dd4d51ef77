"""Pictures of tokens and alignments: what is drawn, on which characters, in which colours."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from cotdistill_jax import benchmarks, corpus, teacher
from cotdistill_jax.benchmarks import arith
from cotdistill_jax.inference import Result, Score
from cotdistill_jax.report import (
    alignment_links,
    figures,
    flow,
    heat_map,
    pictures,
    text_lines,
    token_rows,
    trade_off,
)
from cotdistill_jax.report.run_files import Evaluation
from cotdistill_jax.teacher import synthetic


@pytest.fixture(scope="module")
def record():
    question = arith.load("train", num_examples=1)[0]
    return synthetic.SyntheticTeacher(error_rate=0.0).answer(
        question.id, question.question, question.rationale, question.gold
    )


@pytest.fixture(scope="module")
def vocabulary():
    return sentencepiece.SentencePieceProcessor(model_file=str(corpus.arith_vocabulary()))


def of(tokens, text):
    rows = tuple(((token, 0.5), ("other", 0.25)) for token in tokens)
    return teacher.TeacherRecord("q", 0, "?", "1", text, tuple(tokens), rows, None, "t")


def spans(record):
    return [(p.row.text, p.start, p.end) for p in token_rows.place(record)]


def test_tokens_are_placed_on_their_characters():
    assert spans(of(["\n", "It", " is", "</s>"], "It is")) == [("It", 0, 2), (" is", 2, 5)]
    # a student's pieces have no newline: the white space before a piece belongs to it
    assert spans(of([" It", " is"], "It\nis")) == [(" It", 0, 2), (" is", 2, 5)]
    assert spans(of(["It", "\n", "is"], "It\nis")) == [("It", 0, 2), ("\n", 2, 3), ("is", 3, 5)]
    assert spans(of(["It", ".\n", "is"], "It.\nis")) == [("It", 0, 2), (".\n", 2, 4), ("is", 4, 6)]


def test_tokens_of_another_text_are_refused():
    with pytest.raises(token_rows.PlacementError, match=r"' was' does not continue.*after 'It'"):
        token_rows.place(of(["It", " was"], "It is"))
    with pytest.raises(token_rows.PlacementError, match=r"end before its text does.*' is'"):
        token_rows.place(of(["It"], "It is"))
    with pytest.raises(token_rows.PlacementError, match="nothing to draw"):
        token_rows.place(of(["\n"], "\n"))


def test_a_repeated_candidate_counts_once():
    row = (("It", 0.75), ("The", 0.125), ("It", 0.75))
    found = token_rows.token_rows(dataclasses.replace(of(["It"], "It"), top_k=(row,)))[0]
    assert found.candidates == (("It", 0.75), ("The", 0.125)) and found.kept == 0.875


def test_lines():
    lines = text_lines.split_lines("ab cd\nef", 4)
    assert [("ab cd\nef"[x.start : x.end], x.ends_step) for x in lines] == [
        ("ab", False),
        (" cd\n", True),
        ("ef", False),
    ]
    first = text_lines.split_lines("ab\ncd", 9, newline_first=True)
    assert ["ab\ncd"[x.start : x.end] for x in first] == ["ab", "\ncd"]
    assert text_lines.visible(" a\n") == "▁a↵"


def test_the_flow_has_a_bar_per_token_as_high_as_its_probability(record):
    placed = token_rows.place(record)
    with figures.style(figures.THEMES["light"]):
        figure = flow.draw_flow(record.text, {"teacher": placed}, figures.THEMES["light"])
    heights = [bar.get_height() for axis in figure.axes for bar in axis.patches]
    assert heights == [token.row.prob for token in placed]
    assert len(figure.axes) == record.text.count("\n") + 1


def test_the_heat_map_breaks_after_steps_and_shows_every_token(record):
    rows = token_rows.token_rows(record)
    parts = heat_map.split_rows(rows, 12)
    assert [t for part in parts for t in part] == rows and max(map(len, parts)) <= 12
    assert parts[0][-1].text == "\n"


def test_labels_have_glyphs_and_stay_inside(record, tmp_path, recwarn):
    for name, draw in pictures.token_pictures({"teacher": record, "again": record}).items():
        for theme, paper in (("light", 1.0), ("dark", 22 / 255)):
            path = tmp_path / f"{name}.png"
            figures.save(draw, path, theme)
            pixels = imread(path)[..., :3]
            border = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
            assert all(np.allclose(edge[:, 0], paper, atol=0.02) for edge in border), name
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_page_takes_the_readers_colours(record, tmp_path):
    pictures.write_pictures(
        pictures.token_pictures({"teacher": record}), record, tmp_path / "x.html"
    )
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == 2 and "currentColor" in page and "#0a0b0c" not in page


def test_files_and_texts_that_do_not_fit_are_refused(record, tmp_path):
    drawings = pictures.token_pictures({"teacher": record})
    with pytest.raises(ValueError, match="can hold one picture, got flow, heat_map"):
        pictures.write_pictures(drawings, record, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"ends in '.gif'"):
        figures.save(drawings["flow"], tmp_path / "x.gif")
    with pytest.raises(ValueError, match="2 different texts"):
        other = dataclasses.replace(record, text="else")
        pictures.token_pictures({"teacher": record, "student": other})
    with pytest.raises(KeyError, match="no record of question 'x'"):
        pictures.find_record([record], "x", None)


def test_alignment_links(record, vocabulary):
    spanned = alignment_links.align(record, vocabulary, "spans")
    assert all(spanned.tokens[piece.links[0]].start <= piece.start for piece in spanned.pieces)
    for piece in spanned.pieces:
        assert all(spanned.tokens[link].start < piece.end for link in piece.links)
    paired = alignment_links.align(record, vocabulary, "dtw")
    linked = {link for piece in paired.pieces for link in piece.links}
    assert linked == set(range(len(paired.tokens)))  # a path visits every token
    assert paired.num_one_hot > spanned.num_one_hot


@pytest.mark.parametrize("around", ["", " step\n"])
def test_a_soft_piece_of_dtw_is_linked_with_the_token_that_it_equals(record, vocabulary, around):
    tokens = (" step", "\n", *record.tokens, "\n", "\n")
    rows = tuple(((token, 0.5),) for token in tokens)
    seed = dataclasses.replace(
        record, tokens=tokens, top_k=rows, text=around + record.text + "\n\n"
    )
    aligned = alignment_links.align(seed, vocabulary, "dtw")
    soft = [piece for piece in aligned.pieces if piece.how.soft]
    assert soft
    for piece in soft:
        (token,) = (aligned.tokens[link] for link in piece.links)
        assert token.row.text.strip() == seed.text[piece.start : piece.end].strip()


def test_a_rejected_record_says_why(record, vocabulary):
    changed = dataclasses.replace(record, tokens=("x", *record.tokens), top_k=((), *record.top_k))
    assert alignment_links.align(changed, vocabulary, "dtw").rejected == "not_the_seeds_shape"


@pytest.mark.real_data
def test_the_papers_example_has_six_one_hot_pieces_of_forty(data_dir):
    content = json.loads((data_dir / "codex" / "gsm8k_train_0_top5.json").read_text())
    sample = content["samples"][0]
    tokens = tuple(step[0][0] for step in sample)
    rows = tuple(tuple((token, prob) for token, prob in step[1:]) for step in sample)
    text = "".join(tokens[2:]).strip()
    codex = teacher.TeacherRecord("gsm8k/train/0", 0, "?", "72", text, tokens, rows, None, "codex")
    t5 = sentencepiece.SentencePieceProcessor(model_file=str(data_dir / "t5" / "spiece.model"))
    aligned = alignment_links.align(codex, t5, "dtw")
    assert (aligned.num_one_hot, len(aligned.pieces)) == (6, 40)
    assert alignment_links.align(codex, t5, "spans").num_one_hot == 0


def evaluation(tmp_path, step, **accuracies):
    results = [
        Result(name.replace("__", "/"), "zero_shot_cot", "last_number",
               {"last_number": Score(100, int(100 * a), a, 0, 0, (a, a))}, 0)
        for name, a in accuracies.items()
    ]  # fmt: skip
    return Evaluation(tmp_path, f"checkpoint_{step}", step, results, {}, ())


def test_trade_off_takes_means_of_families(tmp_path):
    found = trade_off.points(
        [
            evaluation(tmp_path, 200, gsm8k=0.5, svamp=0.25, asdiv=0.75, bbh__navigate=0.125),
            evaluation(tmp_path, 100, gsm8k=0.25, svamp=0.5),
        ]
    )
    assert [p.step for p in found] == [100, 200]
    assert dict(found[1].accuracy) == {
        "in distribution": 0.5,
        "other maths": 0.5,
        "general (BBH)": 0.125,
    }
    assert trade_off.can_draw(found)
    assert len(trade_off.draw_trade_off(found, figures.THEMES["light"]).axes) == 2
    assert not trade_off.can_draw(trade_off.points([evaluation(tmp_path, 1, gsm8k=0.5)]))


def test_accuracies_that_are_close_together_get_ticks_of_their_own(tmp_path):
    close = [evaluation(tmp_path, 1, gsm8k=0.31, svamp=0.012)]
    close.append(evaluation(tmp_path, 2, gsm8k=0.32, svamp=0.034))
    figure = trade_off.draw_trade_off(trade_off.points(close), figures.THEMES["light"])
    FigureCanvasAgg(figure).draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        assert len(labels) > 2 and len(set(labels)) == len(labels)


@pytest.fixture(scope="module")
def records(record, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "records"
    teacher.write_records(folder, [record])
    return folder


def script(name, *flags):
    return subprocess.run(
        [sys.executable, f"scripts/{name}.py", *map(str, flags)],
        cwd=benchmarks.__file__.rpartition("/cotdistill_jax/")[0],
        capture_output=True,
        text=True,
        check=False,
    )


def test_commands(records, record, tmp_path):
    done = script("plot_alignment", f"--records={records}", f"--vocab={corpus.arith_vocabulary()}",
                  f"--output={tmp_path / 'a.svg'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "spans: 5 of 23 pieces" in done.stdout and "dtw: 15 of 23" in done.stdout
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    done = script("plot_token_probs", f"--records={records}", f"--output={tmp_path / 't.html'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.html").read_text(encoding="utf-8").count("<svg ") == 2
    done = script(
        "plot_token_probs", f"--records={records}", "--question_id=nobody", "--output=x.html"
    )
    assert done.returncode == 1 and "no record of question 'nobody'" in done.stderr
