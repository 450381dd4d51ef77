"""Measures the memory that each process needs to start a run from weights, to evaluate, to decode, and to convert a checkpoint.

    python scripts/benchmark_memory.py --vocabulary=data/t5/spiece.model --model=large --folder=/scratch --processes=1,2,4

Random weights of FlanT5's dimensions are written as a Hugging Face folder and converted to a run folder. Then so many processes of one
CPU device each share a mesh (1, processes, 1), joined by gloo:

| stage | what |
|---|---|
| start | weights -> parameters and AdamW's state on the mesh, as a run's before its first step |
| evaluation | parameters on the mesh that stay there, as in training; prompts decoded beside them |
| inference | `python -m cotdistill_jax.inference` of a few questions |

`own` is memory that belongs to the process (peak of RssAnon in /proc, looked at 100 times a second), above what it has when everything
is imported and JAX has its devices; `share` what its device has to hold in the end; `over` their difference, in megabytes and in tensors
of the largest size. Compiled programs come from a cache: each stage runs twice, and the second time counts (compiling takes memory, too,
but neither more nor less for more processes). Of a conversion, `own` is what one of a small model does not need.
"""

import argparse
import json
import math
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import benchmark_conversion
import numpy as np

from cotdistill_jax import command

# Stage, and the layout that it reads.
_STAGES = (
    ("start", "huggingface"),
    ("start", "ours"),
    ("evaluation", "ours"),
    ("inference", "ours"),
)
_BEGINS, _SHARE = "begins", "share"
_PROMPTS = [list(range(2, 42)), list(range(2, 30))]


def work(stage: str, source: str, scratch: str, processes: int, index: int, address: str) -> None:
    """Does one stage in one process; says on standard output when it begins and, when it has ended, its device's share in bytes."""
    import jax
    import optax

    from cotdistill_jax import decoding, partitioning
    from cotdistill_jax.checkpoints import abstract_variables, conversion, initial, placement
    from cotdistill_jax.inference import __main__ as inference
    from cotdistill_jax.train import step

    compiled = f"{scratch}/compiled_{processes}_{index}"
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if processes > 1:
        jax.distributed.initialize(address, processes, index)
    mesh = partitioning.make_mesh((1, processes, 1))
    jax.block_until_ready(jax.numpy.zeros(8) + 1)
    weights = conversion.open_weights(source)
    assert weights.vocabulary_file is not None
    config = weights.config
    shardings = partitioning.param_shardings(mesh, abstract_variables(config))
    print(json.dumps({_BEGINS: own_bytes(os.getpid())}), flush=True)
    if stage == "start":
        params, _ = initial.read(source, config, weights.vocabulary_file)
        held: Any = step.init_state(mesh, config, optax.adamw(1e-3), 0, params)
        jax.block_until_ready(held)
    elif stage == "evaluation":
        params = placement.place(weights.params, shardings)
        held = (params, decoding.prepare(config, params))
        decoding.generate(config, held[1], _PROMPTS, 8, batch_size=8, mesh=mesh)
    else:
        held = _shards(weights.params, shardings)
        inference.main(
            [
                f"--checkpoint={source}",
                "--benchmarks=arith",
                "--prompt=zero_shot_cot",
                f"--output_dir={tempfile.mkdtemp(dir=scratch)}",
                "--num_examples=4",
                "--max_new_tokens=8",
                "--batch_size=8",
                f"--mesh=1,{processes},1",
                f"--compilation_cache_dir={compiled}",
            ]
        )
    print(json.dumps({_SHARE: _bytes_of(held)}), flush=True)


def _shards(params: Any, shardings: Any) -> Any:
    """Returns the shapes of a device's parts."""
    import jax

    def shard(leaf: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), np.float32)

    return jax.tree.map(shard, params, shardings)


def _bytes_of(tree: Any) -> int:
    """Returns the bytes that this process's devices hold of arrays, each counted once; of shapes their own."""
    import jax

    counted = {}
    for leaf in jax.tree.leaves(tree):
        parts = [part.data for part in getattr(leaf, "addressable_shards", [])]
        for part in parts:
            counted[part.unsafe_buffer_pointer()] = part.nbytes
        if not parts:
            counted[id(leaf)] = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    return sum(counted.values())


def own_bytes(pid: int) -> int:
    """Returns the anonymous memory of a process; 0 where it has ended."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    found = status.partition("RssAnon:")[2].split()
    return 1024 * int(found[0]) if found else 0


def measure(stage: str, source: str, scratch: str, processes: int) -> list[tuple[int, int]]:
    """Returns per process the peak of its own memory above that at the beginning, and its device's share, in bytes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    arguments = [stage, source, scratch, str(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--work", *arguments, str(index), address],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for index in range(processes)
    ]
    said: list[dict[str, int]] = [{} for _ in started]
    threads = [
        threading.Thread(target=_listen, args=(process, heard))
        for process, heard in zip(started, said, strict=True)
    ]
    for thread in threads:
        thread.start()
    peaks = [0] * processes
    while any(process.poll() is None for process in started):
        for index, process in enumerate(started):
            if _BEGINS in said[index] and _SHARE not in said[index] and process.poll() is None:
                peaks[index] = max(peaks[index], own_bytes(process.pid))
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    if any(process.returncode for process in started):
        sys.exit(f"{stage} of {processes} processes failed: {' '.join(started[0].args)}")  # type: ignore[arg-type]
    return [(peak - heard[_BEGINS], heard[_SHARE]) for peak, heard in zip(peaks, said, strict=True)]


def _listen(process: Any, heard: dict[str, int]) -> None:
    for line in process.stdout:
        if line.startswith("{"):
            heard.update(json.loads(line))


def main() -> None:
    """Prints the table."""
    if sys.argv[1:2] == ["--work"]:
        stage, source, scratch, processes, index, address = sys.argv[2:]
        work(stage, source, scratch, int(processes), int(index), address)
        return
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--vocabulary", required=True, help="T5's SentencePiece model")
    parser.add_argument("--model", choices=benchmark_conversion.SIZES, default="large")
    parser.add_argument("--folder", help="where files are made and removed: twice the model")
    parser.add_argument(
        "--processes", default="1,2,4", help="comma list of how many share the model"
    )
    parser.add_argument(
        "--stages", default="start,evaluation,inference", help="comma list of what is measured"
    )
    flags = parser.parse_args()
    stages = flags.stages.split(",")
    with tempfile.TemporaryDirectory(dir=flags.folder) as scratch:
        folder = pathlib.Path(scratch)
        size = benchmark_conversion.make(
            folder / "huggingface", flags.model, flags.vocabulary, 2**62
        )
        width = benchmark_conversion.SIZES[flags.model][0]
        largest = 4 * benchmark_conversion.VOCAB_SIZE * width
        print(
            f"{flags.model}: {size / 1e6:,.0f} MB of weights, largest tensor {largest / 1e6:,.1f} MB\n"
        )
        print("| stage | from | processes | own MB | share MB | over MB | over, tensors |")
        print("|---|---|---|---|---|---|---|", flush=True)
        benchmark_conversion.make(folder / "none", "none", flags.vocabulary, 2**62)
        idle = _convert(folder / "none", folder / "none_ours", flags.vocabulary)
        own = _convert(folder / "huggingface", folder / "ours", flags.vocabulary)
        _print("conversion", "huggingface", 1, own - idle, 0, largest)
        for stage, layout in (one for one in _STAGES if one[0] in stages):
            for processes in map(int, flags.processes.split(",")):
                arguments = (stage, str(folder / layout), scratch, processes)
                measure(*arguments)
                own, share = max(measure(*arguments))
                _print(stage, layout, processes, own, share, largest)


def _convert(source: pathlib.Path, target: pathlib.Path, vocabulary: str) -> float:
    """Converts to a run folder; returns the peak of the process's own memory."""
    script = str(pathlib.Path(__file__).with_name("convert_checkpoint.py"))
    arguments = [f"--input={source}", f"--output={target}", "--to=ours"]
    arguments += [f"--vocabulary={vocabulary}"]
    return benchmark_conversion.measure([sys.executable, script, *arguments])[0]


def _print(stage: str, layout: str, processes: int, own: float, share: int, largest: int) -> None:
    over = own - share
    print(
        f"| {stage} | {layout} | {processes} | {own / 1e6:,.0f} | {share / 1e6:,.0f} | {over / 1e6:,.0f} | {over / largest:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    command.run(main)
