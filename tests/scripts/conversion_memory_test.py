"""Converting needs memory for a few tensors, not for copies of the model: peak anonymous memory in every direction."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import flax.traverse_util
import numpy as np
import pytest

from cotdistill_jax import network
from cotdistill_jax.checkpoints import conversion, huggingface

ROOT = pathlib.Path(__file__).parents[2]
VOCABULARY = ROOT / "cotdistill_jax" / "corpus" / "arith.spiece.model"
LARGE = network.T5Config(
    vocab_size=512,
    emb_dim=1024,
    num_heads=16,
    head_dim=64,
    mlp_dim=2816,
    num_encoder_layers=3,
    num_decoder_layers=3,
)
SMALL = dataclasses.replace(LARGE, emb_dim=64, num_heads=1, mlp_dim=64)

# One process, as starting it takes most of the time; small conversions first, so that whatever is made once is there.
CONVERT = """
import importlib.util, json, pathlib, sys, threading, time
from absl import flags

script, folder, vocabulary = sys.argv[1:]
spec = importlib.util.spec_from_file_location("convert_checkpoint", script)
command = importlib.util.module_from_spec(spec)
spec.loader.exec_module(command)

def anonymous():
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])

class Peak(threading.Thread):
    def run(self):
        self.most, self.running = 0, True
        while self.running:
            self.most = max(self.most, anonymous())
            time.sleep(0.002)

def convert(source, layout, target):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["convert", f"--input={source}", f"--output={target}", f"--to={layout}",
                 f"--vocabulary={vocabulary}", "--extra_ids=0"])
    before, peak = anonymous(), Peak()
    peak.start()
    command.main(["convert"])
    peak.running = False
    peak.join()
    return peak.most - before

grown = {}
for size in ("small", "large"):
    at = f"{folder}/{size}"
    for source, layout, target in (
        ("single", "ours", "a"), ("sharded", "t5x", "b"), ("a", "huggingface", "c"), ("a", "t5x", "d"),
        ("b", "ours", "e"), ("b", "huggingface", "f"), ("scanned", "huggingface", "g"),
    ):
        grown[f"{source} -> {layout}"] = convert(f"{at}/{source}", layout, f"{at}/{target}")
print(json.dumps(grown))
"""


def _write(folder: pathlib.Path, config: network.T5Config) -> int:
    """Writes a model of constants as Hugging Face's single file and shards, and as a scanned run; returns its bytes."""
    shapes = huggingface.tensor_shapes(config)
    flat = {
        ours: np.full(shapes[theirs][:: -1 if transposed else 1], i, np.float32)
        for i, (ours, (theirs, transposed)) in enumerate(huggingface.tensor_names(config).items())
    }
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    size = sum(leaf.nbytes for leaf in flat.values())
    huggingface.write(folder / "single", config, params, VOCABULARY, 0)
    huggingface.write(folder / "sharded", config, params, VOCABULARY, 0, size // 4)
    scanned = dataclasses.replace(config, scan_layers=True)
    weights = conversion.Weights("ours", scanned, network.stack_layers(params), VOCABULARY, 0, 0)
    conversion.save(weights, str(folder / "scanned"), "ours")
    return size


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:checkpoints. Hugging Face's T5 tokenizer")
def test_no_direction_needs_half_a_copy_of_the_weights(tmp_path):
    _write(tmp_path / "small", SMALL)
    size = _write(tmp_path / "large", LARGE)
    script = ROOT / "scripts" / "convert_checkpoint.py"
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, str(script), str(tmp_path), str(VOCABULARY)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown = json.loads(done.stdout.splitlines()[-1])
    assert size > 300e6 and len(grown) == 7
    assert {direction: most for direction, most in grown.items() if most > size / 2} == {}
    first = (tmp_path / "large" / "single" / "model.safetensors").read_bytes()
    for target in ("c", "f", "g"):
        written = tmp_path / "large" / target / "model.safetensors"
        assert written.read_bytes() == first
