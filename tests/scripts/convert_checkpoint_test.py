"""The conversion command: every direction exact, vocabulary checked, clear errors."""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import flax.traverse_util
import numpy as np
import pytest
import sentencepiece

from cotdistill_jax import checkpoints, network
from cotdistill_jax.checkpoints import conversion, huggingface, initial, t5x_legacy

ROOT = pathlib.Path(__file__).parents[2]
VOCABULARY = ROOT / "cotdistill_jax" / "corpus" / "arith.spiece.model"
CONFIG = network.T5Config(
    vocab_size=len(sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY))),
    emb_dim=8,
    num_heads=3,
    head_dim=4,
    mlp_dim=12,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    """A Hugging Face folder with the embedded vocabulary."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    shapes = huggingface.tensor_shapes(CONFIG)
    flat = {
        # Moderate weights: larger ones saturate the attention and amplify rounding.
        ours: 0.3
        * rng.standard_normal(shapes[theirs][:: -1 if transposed else 1], dtype=np.float32)
        for ours, (theirs, transposed) in huggingface.tensor_names(CONFIG).items()
    }
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    huggingface.write(folder, CONFIG, params, VOCABULARY, extra_ids=0)
    return folder


def _run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "convert_checkpoint.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def _chain(source: pathlib.Path, tmp_path: pathlib.Path, *layouts: str) -> list[str]:
    """Converts from layout to layout; returns the written paths."""
    path, written = str(source), []
    for number, layout in enumerate(layouts):
        weights = conversion.load(path)
        path = conversion.save(weights, str(tmp_path / str(number)), layout, VOCABULARY, 0)
        written.append(path)
    return written


def test_every_direction_is_exact(source, tmp_path):
    written = _chain(source, tmp_path, "ours", "t5x", "huggingface", "t5x", "ours", "huggingface")
    original = (source / "model.safetensors").read_bytes()
    for folder in (written[2], written[5]):
        assert (pathlib.Path(folder) / "model.safetensors").read_bytes() == original
        assert (pathlib.Path(folder) / "spiece.model").read_bytes() == VOCABULARY.read_bytes()


def test_a_run_with_scanned_layers_converts_and_starts_runs_of_both_forms(source, tmp_path):
    weights = conversion.load(str(source))
    scanned = dataclasses.replace(
        weights,
        config=dataclasses.replace(weights.config, scan_layers=True),
        params=network.stack_layers(weights.params),
    )
    path = conversion.save(scanned, str(tmp_path / "run"), "ours", VOCABULARY, 0)
    assert checkpoints.load_model(path).params["encoder"].keys() >= {"layers"}
    (written,) = _chain(pathlib.Path(path), tmp_path, "huggingface")
    original = (source / "model.safetensors").read_bytes()
    assert (pathlib.Path(written) / "model.safetensors").read_bytes() == original
    for config, expected in ((weights.config, weights), (scanned.config, scanned)):
        params, _ = initial.read(path, config, VOCABULARY)
        assert conversion.differences(params, expected.params) == []


def test_our_folder_loads_as_a_model_and_records_what_it_is(source, tmp_path):
    (written,) = _chain(source, tmp_path, "ours")
    model = checkpoints.load_model(pathlib.Path(written).parent)
    config, params = huggingface.read(source)
    assert model.config == config and model.extra_ids == 0 and model.step == 0
    assert conversion.differences(model.params, params) == []
    manifest = json.loads((pathlib.Path(written).parent / "manifest.json").read_text())
    assert manifest["from_layout"] == "huggingface" and manifest["to_layout"] == "ours"
    assert manifest["counts"]["tensors"] == len(huggingface.tensor_names(CONFIG))


def test_the_step_of_a_t5x_checkpoint_is_kept(source, tmp_path):
    _, params = huggingface.read(source)
    for step in (30, 200):
        t5x_legacy.write(str(tmp_path / "t5x" / f"checkpoint_{step}"), params, step)
    weights = conversion.load(str(tmp_path / "t5x"))
    assert weights.step == 200 and weights.layout == "t5x"
    written = conversion.save(weights, str(tmp_path / "ours"), "ours", VOCABULARY, 0)
    assert checkpoints.load_model(tmp_path / "ours").step == 200
    with pytest.raises(ValueError, match=r"checkpoint_200 exists"):
        conversion.save(weights, str(tmp_path / "ours"), "ours", VOCABULARY, 0)
    assert written.endswith("checkpoint_200")


def test_a_vocabulary_must_be_there_and_fit(source, tmp_path):
    _, params = huggingface.read(source)
    t5x_legacy.write(str(tmp_path / "checkpoint_1"), params)
    weights = conversion.load(str(tmp_path / "checkpoint_1"))
    with pytest.raises(ValueError, match=r"no spiece\.model; name T5's with --vocabulary"):
        conversion.save(weights, str(tmp_path / "ours"), "ours")
    with pytest.raises(ValueError, match=r"100 extra ids, but the model has .* another vocabulary"):
        conversion.save(weights, str(tmp_path / "ours"), "ours", VOCABULARY)
    assert not (tmp_path / "ours").exists()
    with pytest.raises(ValueError, match=r"unknown layout 'pytorch'; allowed are \['ours'"):
        conversion.save(weights, str(tmp_path / "out"), "pytorch")


def test_a_t5x_checkpoint_without_one_tensor_is_an_error(source, tmp_path):
    _, params = huggingface.read(source)
    del params["decoder"]["layers_1"]["mlp"]["wi_1"]
    t5x_legacy.write(str(tmp_path / "checkpoint_1"), params)
    with pytest.raises(
        ValueError, match=r"decoder/layers_1/mlp/wi_1/kernel is missing, expected \(8, 12\)"
    ):
        conversion.load(str(tmp_path / "checkpoint_1"))


@pytest.mark.slow
def test_command_converts_and_checks(source, tmp_path):
    arguments = [f"--input={source}", f"--output={tmp_path / 'ours'}", "--to=ours", "--check"]
    done = _run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "(huggingface) ->" in done.stdout and "every tensor is bit-equal" in done.stdout
    if importlib.util.find_spec("torch"):
        assert "logits differ from PyTorch's by at most" in done.stdout
    again = _run(*arguments)
    assert again.returncode == 1 and "checkpoint_0 exists" in again.stderr
    assert "Traceback" not in again.stderr
    nothing = _run(f"--input={tmp_path / 'nothing'}", f"--output={tmp_path / 'x'}", "--to=t5x")
    assert nothing.returncode == 1 and "holds no whole checkpoint_N" in nothing.stderr
