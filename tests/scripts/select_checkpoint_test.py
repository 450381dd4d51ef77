"""Made results of three checkpoints: what is chosen on development sets, and what is refused."""

import csv
import importlib.util
import json
import pathlib

import pytest

from cotdistill_jax.inference import manifest, results
from cotdistill_jax.inference.scoring import Result, Score

ROOT = pathlib.Path(__file__).parents[2]
# Per step: gsm8k:dev, multiarith:validation_200, gsm8k, svamp, bbh/navigate. Test sets would choose otherwise.
ACCURACIES = {
    100: (0.10, 0.40, 0.30, 0.1, 0.60),
    200: (0.30, 0.50, 0.20, 0.2, 0.50),
    300: (0.30, 0.20, 0.10, 0.3, 0.55),
}
NAMES = ("gsm8k:dev", "multiarith:validation_200", "gsm8k", "svamp", "bbh/navigate")


def _script():
    path = ROOT / "scripts" / "select_checkpoint.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write(folder, step, accuracies, names=NAMES, n=100):
    made = [
        Result(name, "zero_shot_cot", "rule", {"rule": Score(n, 0, a, 0, 0, (a, a))}, 0)
        for name, a in zip(names, accuracies, strict=True)
    ]
    folder.mkdir(parents=True)
    results.write(folder, f"run/checkpoint_{step}", step, made)


@pytest.fixture
def evaluated(tmp_path):
    for step, accuracies in ACCURACIES.items():
        _write(tmp_path / "evaluation" / f"checkpoint_{step}", step, accuracies)
    return tmp_path


def test_development_sets_choose_and_the_table_has_everything(evaluated, capsys):
    output = evaluated / "choice"
    _script().main([f"--results={evaluated / 'evaluation'}", f"--output_dir={output}"])
    best = json.loads((output / "choice.json").read_text())["best"]
    assert best["gsm8k"]["zero_shot_cot"]["step"] == 200, "the earlier one of equals"
    assert best["out_of_distribution"]["zero_shot_cot"]["step"] == 200
    table = list(csv.DictReader((output / "trade_off.csv").open()))
    assert [row["step"] for row in table] == ["100", "200", "300"]
    wanted = ("in_distribution_dev", "other_maths_dev", "in_distribution", "other_maths", "bbh")
    assert [float(table[0][name]) for name in wanted] == [0.1, 0.4, 0.3, 0.1, 0.6]
    assert table[2]["multiarith:validation_200"] == "0.2" and table[0]["bbh_dev"] == ""
    printed = capsys.readouterr().out
    assert "best for gsm8k, zero_shot_cot: run/checkpoint_200 (30.0%)" in printed
    assert "30.0*" in printed.splitlines()[2] and "50.0*" in printed.splitlines()[2]
    assert (output / "trade_off.png").read_bytes().startswith(b"\x89PNG")


def test_globs_and_steps(evaluated):
    output = evaluated / "choice"
    folders = f"--results={evaluated / 'evaluation' / 'checkpoint_*'}"
    _script().main([folders, "--steps=300,100", f"--output_dir={output}"])
    best = json.loads((output / "choice.json").read_text())["best"]
    assert best["gsm8k"]["zero_shot_cot"]["step"] == 300
    assert best["out_of_distribution"]["zero_shot_cot"]["step"] == 100
    with pytest.raises(FileNotFoundError, match=r"no results of step \[7\]; there are \[100, 200"):
        _script().main([folders, "--steps=7", f"--output_dir={output}"])
    with pytest.raises(FileNotFoundError, match=r"no folder matches --results .*nothing"):
        _script().main([f"--results={evaluated / 'nothing'}", f"--output_dir={output}"])


def test_without_development_sets_nothing_is_chosen(tmp_path, capsys):
    _write(tmp_path / "a", 1, (0.5,), ("gsm8k",))
    _script().main([f"--results={tmp_path / 'a'}", f"--output_dir={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert "best for gsm8k: unknown, no development set of that kind" in printed
    assert "no plot: no checkpoint was evaluated on test sets of two kinds" in printed


def test_checkpoints_of_different_development_sets_are_refused(evaluated):
    _write(evaluated / "evaluation" / "checkpoint_400", 400, (0.9,), ("gsm8k:dev",))
    with pytest.raises(
        ValueError, match=r"checkpoint_400 was not evaluated on multiarith:validation_200"
    ):
        _script().main([f"--results={evaluated / 'evaluation'}", f"--output_dir={evaluated / 'o'}"])


def test_a_checkpoint_evaluated_twice_is_refused(evaluated):
    _write(evaluated / "other", 100, ACCURACIES[100])
    with pytest.raises(ValueError, match=r"checkpoint_100 with zero_shot_cot was evaluated twice"):
        _script().main([f"--results={evaluated}", f"--output_dir={evaluated / 'o'}"])


def test_checkpoints_that_answered_different_questions_are_refused(tmp_path):
    for step, number, version in ((1, 100, "ab"), (2, 100, "cd"), (3, 90, "ab")):
        folder = tmp_path / f"checkpoint_{step}"
        _write(folder, step, ACCURACIES[100], n=number)
        settings = {"questions_sha256": version, "num_questions": number}
        files = {n: {**settings, "benchmark": n, "prompt": "zero_shot_cot"} for n in NAMES}
        manifest.claim(folder, {}, files)
    for other, counts in ((2, "100 and 100, checksums cd and ab"), (3, "90 and 100")):
        with pytest.raises(ValueError, match=f"different questions of .*: {counts}"):
            _script().main(
                [f"--results={tmp_path}", f"--steps=1,{other}", f"--output_dir={tmp_path / 'out'}"]
            )
