import dataclasses
import json
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest

from cotdistill_jax import report
from cotdistill_jax.report import run_files
from cotdistill_jax.train import run_time


def written(run, tmp_path):
    counts = report.write_report(run, tmp_path / "out" / "report.html")
    return counts, (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_counts_and_numbers_are_on_the_page(run, tmp_path):
    counts, page = written(run, tmp_path)
    assert (counts["evaluations"], counts["predictions"], counts["with_token_probs"]) == (2, 8, 4)
    assert counts["log_lines"] == 10  # the torn eleventh is left out
    # 3 of 4 are right: 1, 2 and "So 4"; Wilson's interval of 3 in 4
    assert "<strong>75.0%</strong>" in page and "30.1% to 95.4%" in page
    assert "10 in, 9 out; dropped: wrong_answer 1" in page
    assert "<td>arith_zero_shot_cot_v1</td>" in page and "1,190" in page
    assert "<dt>LENGTHS</dt><dd>{&#39;inputs&#39;: 8}</dd>" in page


def test_where_the_time_went(run, tmp_path):
    assert "Where the time went" not in written(run, tmp_path)[1]
    parts = {"training": 60.0, "saving": 20.0, "lost": 20.0}
    starts = [
        run_time.Start(1, "2026-11-27T08:00:00+00:00", 0, 120, parts, lost_steps=20),
        run_time.Start(2, "2026-11-27T09:00:00+00:00", 100, 200, {"training": 60.0}, ended="done"),
    ]
    content = {"schema_version": 1, "starts": [dataclasses.asdict(start) for start in starts]}
    (run / "run" / run_time.TIME_FILE).write_text(json.dumps(content))
    _, page = written(run, tmp_path)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", page)]
    assert [row for row in rows if row[:1] in (["1"], ["2"], ["all"])] == [
        [
            "1",
            "2026-11-27 08:00:00",
            "0 to 120",
            "running, or killed, 20 steps lost",
            "0:01:40",
            "60.0%",
            "20.0%",
            "20.0%",
        ],
        ["2", "2026-11-27 09:00:00", "100 to 200", "done", "0:01:00", "100.0%", "0.0%", "0.0%"],
        ["all", "", "", "20 steps lost", "0:02:40", "75.0%", "12.5%", "12.5%"],
    ]
    assert "time.json</a>" in page


def test_the_page_loads_nothing_and_links_what_exists(run, tmp_path):
    _, page = written(run, tmp_path)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    links = re.findall(r'<li><a href="([^"]+)"', page)
    assert "../my%20run/evaluation/checkpoint_200/results.json" in links
    assert links and all((tmp_path / "out" / unquote(link)).exists() for link in links)


def test_a_models_text_cannot_end_the_data(run, tmp_path):
    _, page = written(run, tmp_path)
    data = re.search(r'<script type="application/json" id="prediction-data">(.*?)</script>', page)[
        1
    ]
    table = json.loads(data)
    assert table["rows"][6][3].startswith("</script><script>window.broken = 1</script>")
    assert page.count("window.broken = 1") == 2  # the text and its token
    assert "<script>window.broken" not in page and "<img" not in page


def test_golds_that_the_vocabulary_cannot_spell_are_said_once(run, tmp_path):
    said = "golds hold characters that the model"
    assert said not in written(run, tmp_path)[1]
    for results in run.glob("evaluation/*/results.json"):
        counted = '"golds_outside_vocabulary": 3'
        results.write_text(results.read_text().replace('"golds_outside_vocabulary": null', counted))
    _, page = written(run, tmp_path)
    assert page.count(f"arith zero_shot_cot: 3 of 4 {said}") == 1


def test_a_byte_order_mark_and_blank_lines_read_as_without(run, tmp_path):
    _, expected = written(run, tmp_path)
    metrics = run / "run" / "metrics.jsonl"
    metrics.write_bytes(b"\xef\xbb\xbf" + metrics.read_bytes().replace(b"\n", b"\r\n\r\n"))
    for file in run.rglob("*.json"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    _, page = written(run, tmp_path)
    assert re.findall("<td.*", page) == re.findall("<td.*", expected)


def test_references_are_chosen_by_benchmark(run, tmp_path):
    _, page = written(run, tmp_path)
    assert "None of them is for a benchmark of this run" in page
    for results in run.glob("evaluation/*/results.json"):
        results.write_text(results.read_text().replace('"arith"', '"multiarith"'))
    _, page = written(run, tmp_path)
    rows = re.findall(r"<tr><td>(\S+)</td><td>FlanT5", page)
    assert rows == ["multiarith"] * 5
    assert "26.75" in page and "22.6% to 31.3%" in page  # 107 of 400


def test_a_run_without_evaluation_and_one_without_training(run, tmp_path):
    _, page = written(run / "run", tmp_path)
    assert "No results.json in this run" in page and "No prediction files" in page
    _, page = written(run / "evaluation", tmp_path)
    assert "No metrics.jsonl in this run" in page and "<strong>75.0%</strong>" in page


def test_errors_name_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        report.read_run(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"holds no results.json and none of metrics.jsonl"):
        report.read_run(tmp_path)


def test_broken_json_is_named(run):
    (run / "run" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"run/manifest.json is not valid JSON"):
        report.read_run(run)


def test_macros():
    config = "A = 1\nLONG = \\\n    {'inputs': 8}\nloop.train.seed = 0\n"
    assert run_files.macros(config) == {"A": "1", "LONG": "{'inputs': 8}"}


def test_command(run, tmp_path):
    arguments = [sys.executable, "-m", "cotdistill_jax.report", f"--run={run}"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 evaluations, 8 predictions (4 with token probabilities), 10 log lines" in done.stdout
    assert (run / "report.html").exists()
    arguments[-1] = f"--run={tmp_path / 'missing'}"
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is not a folder" in done.stderr
