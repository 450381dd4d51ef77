"""The paper's job at toy size on a made-up release: every stage as a reader would run it, and again after an interruption."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from cotdistill_jax import checkpoints, corpus, network
from cotdistill_jax.checkpoints import conversion

ROOT = pathlib.Path(__file__).parents[2]
DATA = os.environ.get("COTDISTILL_DATA_DIR")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reproduce_paper.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="COTDISTILL_DATA_DIR is not set")
def test_from_the_release_to_the_table(tmp_path):
    maker = [sys.executable, str(ROOT / "tests" / "scripts" / "made_up_release.py")]
    subprocess.run([*maker, str(tmp_path / "processed_data")], check=True)
    config = network.T5Config(
        emb_dim=128,
        num_heads=8,
        head_dim=16,
        mlp_dim=256,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    params = checkpoints.init_variables(config, jax.random.key(0))["params"]
    weights = conversion.Weights("ours", config, params, corpus.t5_vocabulary(), 100, 0)
    conversion.save(weights, str(tmp_path / "flan"), conversion.HUGGING_FACE)
    arguments = (
        "--size=tiny",
        f"--release={tmp_path / 'processed_data'}",
        f"--output_dir={tmp_path / 'paper'}",
        f"--weights={tmp_path / 'flan'}",
        "--benchmarks=gsm8k:dev,multiarith:test_400,bbh/snarks",
    )
    done = run(*arguments, "--gin=TRAIN_STEPS=6", "--gin=WARMUP_STEPS=1", "--gin=SAVE_PERIOD=3")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout
    assert [n for n in range(1, 8) if f"== {n} of 7" in said] == [1, 2, 3, 4, 5, 6, 7]
    assert "codex_records: 72 in, 72 out" in said and "right_answer 48" in said
    assert "79.34% seed_in_context_cot_v1" in said and "0.28% seed_zero_shot_answer_only_v1" in said
    assert f"starts from the weights of {tmp_path / 'flan'} (huggingface" in said
    table = said[said.rindex("benchmark   ") :]
    for line in ("gsm8k:dev", "multiarith:test_400", "bbh/snarks"):
        assert table.count(f"\n{line}") == 2
    assert "FlanT5-XL, distilled, 4-case CoT prompt, n = 200: 31.5" in table
    assert (tmp_path / "paper" / "report.html").stat().st_size > 50_000
    again = run(
        *arguments,
        "--nobefore",
        "--gin=TRAIN_STEPS=6",
        "--gin=WARMUP_STEPS=1",
        "--gin=SAVE_PERIOD=3",
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert "was already built" in again.stdout and "finished before" in again.stdout


def test_a_missing_release_is_said(tmp_path):
    done = run("--size=tiny", f"--release={tmp_path / 'nothing'}")
    assert done.returncode == 1 and "processed_data" in done.stderr.splitlines()[-1]
