"""Compares a plan of `train.planning` with a real run on this machine, FlanT5-small's dimensions by default.

    python scripts/check_plan.py

Memory: the bytes that the plan counts beside the growth of this process's largest resident size. Time: the plan's rule (40 %
of the peak) with the rate that a product of two large matrices reaches here, beside the steps' own time. Linux only.
"""

import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from cotdistill_jax import command, devices, losses, network, partitioning
from cotdistill_jax.train import planning, step

_LAYERS = flags.DEFINE_integer("num_layers", 8, "Layers of the encoder, and of the decoder.")
_WIDTH = flags.DEFINE_integer("emb_dim", 512, "D.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Rows.")
_INPUTS = flags.DEFINE_integer("inputs", 256, "Encoder positions of a row.")
_TARGETS = flags.DEFINE_integer("targets", 128, "Decoder positions of a row.")
_STEPS = flags.DEFINE_integer("num_steps", 5, "Steps to time.")
_SIDE = flags.DEFINE_integer("matrix_side", 2048, "Rows and columns of the product.")


def resident(field: str) -> int:
    """Returns bytes of memory of this process: `VmRSS` now, `VmHWM` at most since `forget_peak`."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Makes the present size the largest one."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def matrix_rate(side: int) -> float:
    """Returns floating-point operations a second of a float32 product, the median of five."""
    product = jax.jit(jnp.dot)
    left = jax.random.normal(jax.random.key(0), (side, side))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        product(left, left).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds[1:])


def make_batch(shapes: Any, vocab_size: int) -> dict[str, np.ndarray]:
    """Returns random rows without padding, one segment each."""
    rng = np.random.default_rng(0)
    batch = {}
    for name, leaf in shapes.items():
        if name.endswith("_tokens") or name.endswith("teacher_ids"):
            batch[name] = rng.integers(2, vocab_size, leaf.shape).astype(leaf.dtype)
        elif name.endswith("positions"):
            batch[name] = np.broadcast_to(np.arange(leaf.shape[1]), leaf.shape).astype(leaf.dtype)
        elif name.endswith("teacher_probs"):
            batch[name] = np.full(leaf.shape, 0.19, leaf.dtype)
        else:
            batch[name] = np.ones(leaf.shape, leaf.dtype)
    return batch


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    devices.announce()
    config = network.T5Config(
        emb_dim=_WIDTH.value, num_encoder_layers=_LAYERS.value, num_decoder_layers=_LAYERS.value
    )
    lengths = {"inputs": _INPUTS.value, "targets": _TARGETS.value}
    lengths |= {"teacher_ids": _TARGETS.value, "teacher_probs": _TARGETS.value}
    shapes = planning.abstract_batch(lengths, _BATCH.value)
    mesh = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    optimizer = optax.adamw(1e-3)
    of_run = (mesh, config, losses.distribution_matching, optimizer, shapes)
    whole, line = planning.measure(*of_run), planning.estimate(*of_run)

    train_step: Any = step.make_train_step(*of_run[:4])
    compiled = train_step.lower(
        jax.eval_shape(lambda: step.init_state(mesh, config, optimizer, seed=0)), shapes
    ).compile()
    batch = make_batch(shapes, config.vocab_size)
    before = resident("VmRSS")
    state = step.init_state(mesh, config, optimizer, seed=0)
    jax.block_until_ready(state)
    forget_peak()
    seconds = []
    for _ in range(_STEPS.value + 1):
        start = time.perf_counter()
        state, metrics = compiled(state, step.put_batch(mesh, batch))
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    grown = resident("VmHWM") - before
    measured, rate = statistics.median(seconds[1:]), matrix_rate(_SIDE.value)
    predicted = line.flops / (planning.UTILISATION * rate)
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))

    print(
        f"{_LAYERS.value} + {_LAYERS.value} layers, D {_WIDTH.value}, batch {_BATCH.value}, float32"
    )
    print(f"{'':34}{'plan':>10}{'whole step':>12}{'real':>10}")
    mib = 2**20
    of_state = [n.parameter_bytes + n.optimizer_bytes for n in (line, whole)]
    print(f"{'parameters and optimizer, MiB':34}{of_state[0] / mib:10.0f}{of_state[1] / mib:12.0f}{stored / mib:10.0f}")  # fmt: skip
    held = [n.bytes_on("GPU") for n in (line, whole)]  # float32: nothing is estimated
    print(f"{'all memory, MiB':34}{held[0] / mib:10.0f}{held[1] / mib:12.0f}{grown / mib:10.0f}")  # fmt: skip
    print(f"{'GFLOP a step':34}{line.flops / 1e9:10.1f}{whole.flops / 1e9:12.1f}")
    print(f"{'seconds a step':34}{predicted:10.2f}{'':12}{measured:10.2f}")
    print(
        f"a {_SIDE.value}-cube product runs at {rate / 1e9:.0f} GFLOP/s, the steps at {whole.flops / measured / rate:.0%} of it; "
        f"the plan takes {planning.UTILISATION:.0%}"
    )


if __name__ == "__main__":
    command.run(app.run, main)
