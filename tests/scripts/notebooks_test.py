"""Every notebook runs on embedded data, and is stored without outputs."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest

from cotdistill_jax import checkpoints, corpus, network, teacher
from cotdistill_jax.checkpoints import conversion
from cotdistill_jax.corpus import arith

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (pip install .[dev])")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (pip install .[dev])")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (pip install .[dev])")

pytestmark = pytest.mark.slow
TINY = network.T5Config(
    vocab_size=512, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1,
    num_decoder_layers=1, dropout_rate=0.0,
)  # fmt: skip

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "scripts" / "notebooks").glob("*.ipynb"))


def test_one_for_each_of_the_papers_and_without_outputs():
    assert [path.stem for path in NOTEBOOKS] == [
        "alignment", "inspect_data", "prompt_flan_t5", "student_outputs", "teacher_outputs",
    ]  # fmt: skip
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


def test_teacher_outputs(run):
    text = run("teacher_outputs")
    assert text.count("<svg ") == 2
    assert "'questions': 50" in text and "'majority_accuracy'" in text and "--- sample 4, " in text


def test_teacher_outputs_of_a_folder(run, tmp_path, monkeypatch):
    rows = tuple(((token, 0.5),) for token in ("It", " is", " 2."))
    tokens = tuple(token for ((token, _),) in rows)
    record = teacher.TeacherRecord(
        "q/7", 0, "One and one?", "2", "It is 2.", tokens, rows, None, "some teacher"
    )
    teacher.write_records(tmp_path / "records", [record])
    monkeypatch.setenv("COTDISTILL_RECORDS", str(tmp_path / "records"))
    text = run("teacher_outputs")
    assert "'questions': 1" in text and "--- sample 0, right\nIt is 2." in text


def test_student_outputs(run, tmp_path, monkeypatch):
    save_run(tmp_path / "run", TINY)
    settings(monkeypatch, CHECKPOINT=tmp_path / "run", OUTPUT=tmp_path / "out", BENCHMARKS="arith")
    settings(monkeypatch, PROMPTS="zero_shot_cot", NUM_SAMPLES=2)
    text = run("student_outputs")
    assert "zero_shot_cot@2" in text and "--- sample 1, {" in text and text.count("<svg ") == 2


def test_prompt_flan_t5_on_four_sets_with_a_hugging_face_folder(run, tmp_path, monkeypatch):
    save_run(tmp_path / "run", TINY)
    folder = tmp_path / "flan"
    conversion.save(conversion.load(str(tmp_path / "run")), str(folder), conversion.HUGGING_FACE)
    write_benchmarks(tmp_path / "data")
    monkeypatch.setenv("COTDISTILL_DATA_DIR", str(tmp_path / "data"))
    settings(monkeypatch, CHECKPOINT=folder, OUTPUT=tmp_path / "out")
    text = run("prompt_flan_t5")
    for benchmark in ("gsm8k", "multiarith", "asdiv", "svamp"):
        for prompt in ("zero_shot_cot", "cot_4_cases", "zero_shot_answer_only"):
            assert re.search(rf"{benchmark} +{prompt}", text), text
    assert text.count("gold 5") == 4


def settings(monkeypatch, **values):
    for name, value in {"NUM_EXAMPLES": 1, "MAX_NEW_TOKENS": 4, **values}.items():
        monkeypatch.setenv(f"COTDISTILL_{name}", str(value))


def write_benchmarks(folder):
    """Writes the four maths sets with one question each, and as many training rows of GSM8K as the prompts need."""
    row = {"question": "What is 2 + 3?", "answer": "2+3=<<2+3=5>>5\n#### 5"}
    problem = "<Body>Two and three.</Body><Question>Sum?</Question><Answer>5 (coins)</Answer>"
    svamp = {"ID": "1", "Body": "Two and three", "Question": "Sum?", "Answer": 5.0}
    for path, text in {
        "gsm8k/train.jsonl": (json.dumps(row) + "\n") * 7500,
        "gsm8k/test.jsonl": json.dumps(row) + "\n",
        "multiarith/MultiArith.json": json.dumps([{"sQuestion": "2 + 3?", "lSolutions": [5.0]}]),
        "asdiv/ASDiv.xml": f"<M><ProblemSet><Problem ID='1'>{problem}</Problem></ProblemSet></M>",
        "svamp/SVAMP.json": json.dumps([svamp]),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


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
