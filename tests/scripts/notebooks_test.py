"""Every notebook runs on embedded data, and is stored without outputs."""

import json
import pathlib

import jax
import numpy as np
import pytest

from cotdistill_jax import checkpoints, corpus, network
from cotdistill_jax.corpus import arith

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (pip install .[dev])")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (pip install .[dev])")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (pip install .[dev])")

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "scripts" / "notebooks").glob("*.ipynb"))


def test_at_most_three_and_without_outputs():
    assert 1 <= len(NOTEBOOKS) <= 3
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path


@pytest.fixture
def run(monkeypatch):
    """Runs a notebook in the checkout and returns what it printed and displayed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("COTDISTILL_DATA_DIR", raising=False)

    def run_notebook(name):
        notebook = nbformat.read(ROOT / "scripts" / "notebooks" / f"{name}.ipynb", as_version=4)
        client = nbclient.NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(ROOT)}},
        )
        client.execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        shown = [o.get("text", "") + str(o.get("data", {}).get("text/html", "")) for o in outputs]
        return "".join(shown) + str([o["data"].get("text/plain") for o in outputs if "data" in o])

    return run_notebook


def test_inspect_data(run, tmp_path, monkeypatch):
    arith.Arith(num_questions=60, data_dir=tmp_path).download_and_prepare()
    monkeypatch.setenv("COTDISTILL_TFDS_DIR", str(tmp_path))
    text = run("inspect_data")
    assert "Effective mixture" in text and "arith_zero_shot_cot_v1" in text


def test_alignment(run):
    text = run("alignment")
    assert (
        text.count("<svg ") == 3 and "'spans': '5 of 23 one-hot', 'dtw': '15 of 23 one-hot'" in text
    )


def test_prompt_flan_t5(run, tmp_path, monkeypatch):
    config = network.T5Config(
        vocab_size=512, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1,
        num_decoder_layers=1, dropout_rate=0.0,
    )  # fmt: skip
    save_run(tmp_path / "run", config)
    for name, value in {
        "CHECKPOINT": tmp_path / "run", "OUTPUT": tmp_path / "out", "BENCHMARKS": "arith",
        "NUM_EXAMPLES": 4, "MAX_NEW_TOKENS": 8,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"COTDISTILL_{name}", str(value))
    text = run("prompt_flan_t5")
    assert "zero_shot_answer_only" in text and "gold " in text


class NoData:
    """A data position with nothing to keep."""

    def save(self, filename):
        pathlib.Path(filename).write_text("")

    def restore(self, filename):
        pathlib.Path(filename).read_text()


def save_run(folder, config):
    """Writes an untrained run: one checkpoint, `model.json`, vocabulary."""
    checkpoints.write_model_files(folder, config, corpus.arith_vocabulary(), extra_ids=0)
    params = checkpoints.init_variables(config, jax.random.key(0))["params"]
    with checkpoints.TrainCheckpoints(folder) as saved:
        saved.save(checkpoints.TrainState(np.int32(1), params, {}), NoData())
        saved.wait()
