"""The report in a real browser: opens, filters, sorts, pages, and shows hostile text as text."""

import importlib.util
import pathlib

import pytest

from cotdistill_jax import report

pytestmark = pytest.mark.browser


def cells(page, column):
    return page.locator(f"#predictions tbody tr.row td:nth-child({column})").all_inner_texts()


@pytest.fixture
def opened(run, tmp_path, visit):
    report.write_report(run, tmp_path / "report.html")
    page, complaints = visit(tmp_path / "report.html")
    yield page
    assert complaints == []


def test_filters(opened):
    assert len(cells(opened, 1)) == 8
    opened.select_option("#step", "200")
    assert cells(opened, 6) == ["✓ right", "✓ right", "✗ wrong", "✓ right"]
    opened.select_option("#verdict", "wrong")
    assert cells(opened, 1) == ["arith/test/2"]
    opened.select_option("#verdict", "disagree")
    assert "arith/test/3" in cells(opened, 1)  # "So 4": right by the last number, no "answer is"
    opened.select_option("#verdict", "")
    opened.fill("#search", "SO 4")
    assert cells(opened, 1) == ["arith/test/3"]
    assert opened.inner_text("#position") == "page 1 of 1, 1 of 8 predictions"
    opened.fill("#search", "nowhere")
    assert cells(opened, 1) == []


def test_sorts(opened):
    opened.select_option("#step", "200")
    opened.click("button[data-sort=logProb]")
    assert cells(opened, 7) == ["-3.00", "-2.00", "-1.00", "0.00"]
    opened.click("button[data-sort=logProb]")
    assert cells(opened, 7) == ["0.00", "-1.00", "-2.00", "-3.00"]
    header = opened.locator("th:has(button[data-sort=logProb])")
    assert header.get_attribute("aria-sort") == "descending"


def test_hostile_text_stays_text(opened):
    opened.select_option("#step", "200")
    opened.click("#predictions tr.row >> nth=2")
    assert opened.evaluate("window.broken") is None
    assert opened.locator("#predictions img, #predictions script").count() == 0
    shown = opened.locator("#predictions tr.details .tokens").all_inner_texts()
    assert any("</script><script>window.broken = 1</script>" in text for text in shown)
    rules = opened.inner_text("#predictions tr.details dl")
    assert "last_number" in rules and "✗ wrong, reads 7" in rules


def test_tokens_are_coloured_by_probability(opened):
    opened.select_option("#step", "200")
    colors = opened.locator("#predictions tbody tr.row >> nth=0").locator(".tokens span")
    # 0.7 * (1 - 0.25) of orange for a token of probability 0.25, none for one of probability 1
    assert "213, 94, 0, 0.525" in colors.nth(0).get_attribute("style")
    assert "213, 94, 0, 0)" in colors.nth(1).get_attribute("style")


def test_ten_thousand_predictions_do_not_freeze_the_page(tmp_path, visit):
    spec = importlib.util.spec_from_file_location(
        "made", pathlib.Path(__file__).with_name("conftest.py")
    )
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    texts = [
        f"Step {row}: 1 + {row} = {row + 1}. The answer is {row + 1 + row % 2}"
        for row in range(10_000)
    ]
    made.add_evaluation(tmp_path / "evaluation", 7, made.make_predictions(texts))
    report.write_report(tmp_path, tmp_path / "report.html")
    page, complaints = visit(tmp_path / "report.html")
    assert len(cells(page, 1)) == 25
    milliseconds = page.evaluate(
        """() => { const begin = performance.now();
          const search = document.getElementById("search"); search.value = "step 77"; search.dispatchEvent(new Event("input"));
          return performance.now() - begin; }"""
    )
    assert page.inner_text("#position").endswith("111 of 10000 predictions")
    assert milliseconds < 2000  # about 40 ms on an idle machine
    page.click("#next")
    assert page.inner_text("#position").startswith("page 2 of 5")
    assert complaints == []
