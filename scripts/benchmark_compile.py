"""Measures how long a training step takes to compile, its layers unrolled beside scanned; FlanT5-large's dimensions by default.

    python scripts/benchmark_compile.py

Ahead of time, from shapes alone: no weights, no step. CPU seconds tell more than wall seconds where other programs run.
"""

import time
from typing import Any

import jax
import optax
from absl import app, flags

from cotdistill_jax import command, devices, losses, network, partitioning
from cotdistill_jax.train import planning, step

_LAYERS = flags.DEFINE_integer("num_layers", 24, "Layers of the encoder, and of the decoder.")
_WIDTH = flags.DEFINE_integer("emb_dim", 1024, "D.")
_MLP = flags.DEFINE_integer("mlp_dim", 2816, "Width of the feed-forward blocks.")
_HEADS = flags.DEFINE_integer("num_heads", 16, "Heads of 64.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Rows.")
_INPUTS = flags.DEFINE_integer("inputs", 256, "Encoder positions of a row.")
_TARGETS = flags.DEFINE_integer("targets", 128, "Decoder positions of a row.")
_REMAT = flags.DEFINE_string("remat", "none", "As in gin/defaults.gin.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of activations.")


def compile_step(scan_layers: bool) -> tuple[float, float, float]:
    """Returns wall seconds to trace, wall seconds to compile, and CPU seconds of both."""
    config = network.T5Config(
        emb_dim=_WIDTH.value,
        mlp_dim=_MLP.value,
        num_heads=_HEADS.value,
        num_encoder_layers=_LAYERS.value,
        num_decoder_layers=_LAYERS.value,
        dtype=_DTYPE.value,
        remat=_REMAT.value,
        scan_layers=scan_layers,
    )
    lengths = {"inputs": _INPUTS.value, "targets": _TARGETS.value}
    lengths |= {"teacher_ids": _TARGETS.value, "teacher_probs": _TARGETS.value}
    mesh = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    optimizer = optax.adamw(1e-3)
    state = jax.eval_shape(lambda: step.init_state(mesh, config, optimizer, seed=0))
    train_step: Any = step.make_train_step(mesh, config, losses.distribution_matching, optimizer)
    starts = time.perf_counter(), time.process_time()
    lowered = train_step.lower(state, planning.abstract_batch(lengths, _BATCH.value))
    traced = time.perf_counter()
    lowered.compile()
    ended = time.perf_counter()
    return traced - starts[0], ended - traced, time.process_time() - starts[1]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    devices.announce()
    print(
        f"{_LAYERS.value} + {_LAYERS.value} layers, D {_WIDTH.value}, batch {_BATCH.value}, {_INPUTS.value} + {_TARGETS.value} "
        f"positions, {_DTYPE.value}, remat {_REMAT.value}, {jax.default_backend()}"
    )
    found = {name: compile_step(scan) for name, scan in (("scanned", True), ("unrolled", False))}
    for name, (trace, compilation, cpu) in found.items():
        print(
            f"{name:>8}: trace {trace:.1f} s, compile {compilation:.1f} s, CPU of both {cpu:.1f} s"
        )
    scanned, unrolled = found["scanned"], found["unrolled"]
    print(
        f"scanned / unrolled: compile {scanned[1] / unrolled[1]:.2f}, "
        f"trace and compile {sum(scanned[:2]) / sum(unrolled[:2]):.2f}, CPU {scanned[2] / unrolled[2]:.2f}"
    )


if __name__ == "__main__":
    command.run(app.run, main)
