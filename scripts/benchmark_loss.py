"""Measures the loss from hidden states, all logits at once beside `losses.chunked_sum`: memory and time.

    python scripts/benchmark_loss.py

Memory is what XLA's own analysis says of the compiled gradient (nothing of that size is run); time is measured at
another batch size, the variants taking turns so that a busy machine slows all of them. CPU seconds tell more than wall
seconds where other programs run.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from cotdistill_jax import command, devices, losses

_VOCAB = flags.DEFINE_integer("vocab", 32_128, "V.")
_WIDTH = flags.DEFINE_integer("width", 512, "D, width of the hidden states.")
_TOP_K = flags.DEFINE_integer("top_k", 5, "K.")
_LENGTH = flags.DEFINE_integer("length", 256, "L, target positions.")
_MEMORY_BATCH = flags.DEFINE_integer("memory_batch", 32, "B of the memory analysis.")
_TIME_BATCH = flags.DEFINE_integer("time_batch", 4, "B of the timing.")
_CHUNKS = flags.DEFINE_multi_integer("num_chunks", [4, 8, 16], "Chunks to try.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of every variant.")


def project(kernel: jax.Array, hidden: jax.Array) -> jax.Array:
    """Returns logits [B, L, V]."""
    return hidden @ kernel


def whole(
    kernel: jax.Array, hidden: jax.Array, batch: losses.Parts, weights: jax.Array
) -> jax.Array:
    """Returns the weighted sum from all logits at once."""
    token_loss, _ = losses.distribution_matching(project(kernel, hidden), batch)
    return jnp.sum(token_loss * weights)


def chunked(num_chunks: int, *arguments: Any) -> jax.Array:
    """Returns the weighted sum, a chunk of positions at a time."""
    return losses.chunked_sum(losses.distribution_matching, project, *arguments, num_chunks)[0]


def make_arguments(batch_size: int) -> tuple[Any, ...]:
    """Returns kernel, hidden states, batch and weights."""
    keys = jax.random.split(jax.random.key(0), 5)
    tokens, slots = (batch_size, _LENGTH.value), (batch_size, _LENGTH.value, _TOP_K.value)
    batch = {
        "decoder_target_tokens": jax.random.randint(keys[0], tokens, 0, _VOCAB.value),
        "decoder_teacher_ids": jax.random.randint(keys[1], slots, 0, _VOCAB.value),
        "decoder_teacher_probs": jax.nn.softmax(jax.random.normal(keys[2], slots)) * 0.95,
    }
    kernel = 0.05 * jax.random.normal(keys[3], (_WIDTH.value, _VOCAB.value))
    return kernel, jax.random.normal(keys[4], (*tokens, _WIDTH.value)), batch, jnp.ones(tokens)


def compile_gradient(total: Callable[..., jax.Array], arguments: Any) -> Any:
    """Returns the compiled gradient with respect to kernel and hidden states."""
    return jax.jit(jax.grad(total, argnums=(0, 1))).lower(*arguments).compile()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    devices.announce()
    variants = {"whole": whole}
    variants |= {f"{n} chunks": functools.partial(chunked, n) for n in _CHUNKS.value}
    shapes = jax.eval_shape(lambda: make_arguments(_MEMORY_BATCH.value))
    arguments = make_arguments(_TIME_BATCH.value)
    memory, compiled = {}, {}
    for name, total in variants.items():
        analysis = compile_gradient(total, shapes).memory_analysis()
        memory[name] = analysis.temp_size_in_bytes / 2**20
        compiled[name] = compile_gradient(total, arguments)
        jax.block_until_ready(compiled[name](*arguments))
    wall: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(_REPEATS.value):
        for name, step in compiled.items():
            starts = time.perf_counter(), time.process_time()
            jax.block_until_ready(step(*arguments))
            wall[name].append(time.perf_counter() - starts[0])
            cpu[name].append(time.process_time() - starts[1])
    print(f"V {_VOCAB.value}, D {_WIDTH.value}, L {_LENGTH.value}, K {_TOP_K.value}")
    print(f"memory at batch {_MEMORY_BATCH.value}, median seconds at batch {_TIME_BATCH.value}")
    for name in variants:
        print(
            f"{name:>10}: {memory[name]:7.0f} MiB ({memory[name] / memory['whole']:.0%}), "
            f"wall {statistics.median(wall[name]):.3f} s, cpu {statistics.median(cpu[name]):.3f} s"
        )


if __name__ == "__main__":
    command.run(app.run, main)
