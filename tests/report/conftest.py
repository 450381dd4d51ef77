"""A small finished run on disk, with predictions that try to break the page; a browser to read it with."""

import json
import pathlib
import shutil

import pytest

from cotdistill_jax import teacher
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.inference import predictions, results, scoring

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'> <!-- The answer is 7"
CONFIG = "import x\n\n# Macros:\nBATCH_SIZE = 4\nLENGTHS = \\\n    {'inputs': 8}\nTRAIN_STEPS = 200\n\nloop.train.seed = 0\n"


def make_predictions(texts, benchmark="arith"):
    return [
        predictions.graded(
            Question(
                f"{benchmark}/test/{row}", benchmark, f"Question {row}: 1 + {row}?", str(row + 1)
            ),
            "zero_shot_cot",
            text,
            log_prob=-float(row),
            num_tokens=4,
            finished=row % 2 == 0,
        )
        for row, text in enumerate(texts)
    ]


def add_evaluation(folder, step, graded, name="arith.zero_shot_cot"):
    with predictions.PredictionWriter(folder / "predictions" / f"{name}.jsonl") as writer:
        writer.append(graded)
    scored = [scoring.tally(graded[0].benchmark, graded[0].prompt, graded)]
    results.write(folder, f"run/checkpoint_{step}", step, scored)
    (folder / "manifest.json").write_text(
        '{"artefact": "inference", "config": {"dtype": "float32"}}'
    )


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run of 200 steps, evaluated at step 0 and at step 200; the texts of step 200 have token probabilities."""
    training = tmp_path / "my run" / "run"
    training.mkdir(parents=True)
    (training / "config.gin").write_text(CONFIG)
    (training / "manifest.json").write_text('{"devices": ["cpu:0"]}')
    (training / "checkpoint_200").mkdir()
    lengths = {"maximum": 9, "percentiles": {"50.0": 4, "90.0": 8, "99.0": 9, "99.9": 9}}
    counts = {"examples": 1200, "kept": 1190, "over_long_inputs": 10, "over_long_targets": 0}
    counts |= {"inputs": lengths, "targets": lengths}
    (training / "data_counts.json").write_text(json.dumps({"arith_zero_shot_cot_v1": counts}))
    lines = [
        {"step": s, "loss": 4.0 / s, "token_accuracy": 0.005 * s, "tokens_per_second": 100.0 + s}
        for s in range(20, 201, 20)
    ]
    torn = '{"step": 220, "lo'
    (training / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + torn)
    corpus = training.parent / "corpora" / "arith" / "1.0.0"
    corpus.mkdir(parents=True)
    (corpus / "dataset_info.json").write_text("{}")
    split = {"in": 10, "out": 9, "dropped": {"wrong_answer": 1}}
    (corpus / "metadata.json").write_text(
        json.dumps({"teacher": "synthetic", "counts": {"train": split}})
    )
    before = make_predictions(["?", "The answer is 9", "none", "no"])
    after = make_predictions(["The answer is 1", "The answer is 2", HOSTILE, "So 4"])
    evaluation = training.parent / "evaluation"
    add_evaluation(evaluation / "checkpoint_0", 0, before)
    add_evaluation(evaluation / "checkpoint_200", 200, after)
    records = [
        teacher.TeacherRecord(
            *(p.id, p.sample_id, p.question, p.gold, p.text, (p.text, "</s>")),
            top_k=(((p.text, 0.25), ("x", 0.5)), (("</s>", 1.0),)),
            label=None,
            teacher="student",
        )
        for p in after
    ]
    teacher.write_records(
        evaluation / "checkpoint_200" / "token_probs" / "arith.zero_shot_cot", records
    )
    return training.parent


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: Playwright's own, or the one on the PATH."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    with playwright.sync_playwright() as started:
        try:
            launched = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture
def visit(browser):
    """Opens an HTML file; returns the page and what it complained about or asked the network for."""
    pages = []

    def open_page(path):
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith("file:") or complaints.append(request.url),
        )
        page.goto(path.absolute().as_uri())
        pages.append(page)
        return page, complaints

    yield open_page
    for page in pages:
        page.close()
