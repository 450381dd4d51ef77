"""Measures the memory that converting a checkpoint needs, in every direction, each a run of convert_checkpoint.py.

    python scripts/benchmark_conversion.py --vocabulary=data/t5/spiece.model --model=large --folder=/scratch

Random weights of FlanT5's dimensions are written as Hugging Face's single file and as shards, then converted. `own` is
memory that belongs to the process (peak of RssAnon in /proc, looked at 100 times a second), `mapped` the pages of
files that the system takes back when it needs them (peak of RssFile). The model `none` shows what the process needs anyway.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from flax import traverse_util

from cotdistill_jax import command, network
from cotdistill_jax.checkpoints import huggingface, stored

VOCAB_SIZE = 32128
# Width, heads, feed-forward width, layers of each stack.
SIZES = {
    "none": (64, 1, 64, 1),
    "small": (512, 6, 1024, 8),
    "base": (768, 12, 2048, 12),
    "large": (1024, 16, 2816, 24),
    "xl": (2048, 32, 5120, 24),
    "xxl": (4096, 64, 10240, 24),
}
# (from, to, where it is written)
_DIRECTIONS = (
    ("huggingface", "ours", "ours"),
    ("huggingface_shards", "ours", "ours_from_shards"),
    ("huggingface", "t5x", "t5x"),
    ("ours", "huggingface", "huggingface_from_ours"),
    ("ours", "t5x", "t5x_from_ours"),
    ("t5x", "ours", "ours_from_t5x"),
    ("t5x", "huggingface", "huggingface_from_t5x"),
)


def make(folder: pathlib.Path, model: str, vocabulary: str, shard_bytes: int) -> int:
    """Writes a Hugging Face folder of random weights, each drawn when it is written; returns their bytes."""
    width, heads, mlp, layers = SIZES[model]
    config = network.T5Config(VOCAB_SIZE, width, heads, 64, mlp, layers, layers)
    rng = np.random.default_rng(0)
    shapes = huggingface.tensor_shapes(config)
    leaves = {}
    for ours, (theirs, transposed) in huggingface.tensor_names(config).items():
        shape = shapes[theirs][:: -1 if transposed else 1]
        leaves[ours] = stored.StoredArray(
            shape,
            np.dtype(np.float32),
            lambda _, shape=shape: rng.standard_normal(shape, np.float32),
        )
    params = traverse_util.unflatten_dict(leaves, sep="/")
    huggingface.write(folder, config, params, vocabulary, 100, shard_bytes)
    return sum(4 * int(np.prod(shape)) for shape in shapes.values())


def measure(command: Sequence[str]) -> tuple[float, float, float]:
    """Runs a command; returns its peaks of own and of mapped memory in bytes, and its seconds."""
    start = time.monotonic()
    peaks = {"RssAnon": 0, "RssFile": 0}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
            for name, _, value in (line.partition(":") for line in lines):
                if name in peaks:
                    peaks[name] = max(peaks[name], 1024 * int(value.split()[0]))
            time.sleep(0.01)
        if process.returncode:
            assert process.stderr is not None
            sys.exit(process.stderr.read().decode()[-2000:])
    return peaks["RssAnon"], peaks["RssFile"], time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--vocabulary", required=True, help="T5's SentencePiece model")
    parser.add_argument("--model", choices=SIZES, default="large")
    parser.add_argument("--folder", help="where files are made and removed: eight times the model")
    flags = parser.parse_args()
    script = str(pathlib.Path(__file__).with_name("convert_checkpoint.py"))
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        folder = pathlib.Path(name)
        size = make(folder / "huggingface", flags.model, flags.vocabulary, 2**62)
        make(folder / "huggingface_shards", flags.model, flags.vocabulary, size // 10)
        print(f"{flags.model}: {size / 2**30:.2f} GiB of weights\n")
        print("| from | to | own GiB | mapped GiB | seconds |\n|---|---|---|---|---|")
        for source, layout, target in _DIRECTIONS:
            arguments = [f"--input={folder / source}", f"--output={folder / target}"]
            arguments += [f"--to={layout}", f"--vocabulary={flags.vocabulary}"]
            own, mapped, seconds = measure([sys.executable, script, *arguments])
            print(
                f"| {source} | {layout} | {own / 2**30:.2f} | {mapped / 2**30:.2f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    command.run(main)
