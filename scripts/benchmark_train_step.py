"""Measures one training step on the same batch: ours, the seed's way in PyTorch and T5X's trainer.

    python scripts/benchmark_train_step.py

| contender | step |
|---|---|
| ours | `train.step.make_train_step`, distribution matching with K candidates, clipping, AdamW |
| the seed's way | Hugging Face's T5 in PyTorch, dense teacher target [B, L, V], softmax, then the logarithm, AdamW |
| T5X | its T5 1.1 network and `trainer.train_with_lr`, likelihood from one-hot targets (it knows no other), AdamW |

All of them: float32, no dropout, rows without padding. Each has a process of its own and they take turns, so that a machine
that slows down slows all of them; medians count, and ratios are medians of the ratios of a turn. A product of two square
matrices, measured in the same turns, gives the rate to which ours is compared, with the FLOPs that XLA counts: no step with
these FLOPs can be faster than at that rate. T5X and the seed's way are left out where they can't be imported.
"""

import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
from absl import app, flags

from cotdistill_jax import command, devices, losses, network, partitioning
from cotdistill_jax.train import step

_BATCH = flags.DEFINE_integer("batch_size", 8, "B.")
_INPUTS = flags.DEFINE_integer("inputs", 256, "S, encoder positions.")
_TARGETS = flags.DEFINE_integer("targets", 128, "L, decoder positions.")
_TOP_K = flags.DEFINE_integer("top_k", 5, "K, teacher candidates of a position.")
_VOCAB = flags.DEFINE_integer("vocab", 32_128, "V.")
_LAYERS = flags.DEFINE_integer("layers", 8, "Layers of encoder and of decoder.")
_CHUNKS = flags.DEFINE_integer("num_loss_chunks", 1, "Parts of the target positions in our loss.")
_SQUARE = flags.DEFINE_integer("square", 2048, "Rows and columns of the matrix product.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Turns; each contender makes one step a turn.")
_ONLY = flags.DEFINE_list("only", ["ours", "seed", "t5x"], "Contenders beside ours.")

Batch = dict[str, np.ndarray]


def make_batch(config: network.T5Config) -> Batch:
    """Returns a batch of random tokens without padding, and a teacher with mass below one on K distinct tokens."""
    rng = np.random.default_rng(0)
    size, targets = _BATCH.value, _TARGETS.value

    def tokens(length: int) -> np.ndarray:
        return rng.integers(2, config.vocab_size, (size, length)).astype(np.int32)

    target = tokens(targets)
    first = rng.integers(0, config.vocab_size, (size, targets, 1))
    ids = (first + np.arange(_TOP_K.value) * 7) % config.vocab_size
    probs = rng.dirichlet(np.ones(_TOP_K.value + 1), (size, targets))[..., :-1]
    return {
        "encoder_input_tokens": tokens(_INPUTS.value),
        "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": target,
        "decoder_loss_weights": np.ones((size, targets), np.int32),
        "decoder_teacher_ids": ids.astype(np.int32),
        "decoder_teacher_probs": probs.astype(np.float32),
    }


def make_ours(config: network.T5Config, batch: Batch, num_loss_chunks: int) -> peers.Turn:
    """Returns a turn of our step: its seconds and the FLOPs that XLA counts in it."""
    mesh = partitioning.make_mesh()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-4, weight_decay=0.01))
    make = functools.partial(
        step.make_train_step, mesh, config, losses.distribution_matching, optimizer
    )
    state = step.init_state(mesh, config, optimizer, seed=0)
    placed = step.put_batch(mesh, batch)
    compiled = make(num_loss_chunks=num_loss_chunks).lower(state, placed).compile()
    # XLA counts the body of a loop once, so the FLOPs come from the form without chunks.
    whole = make().lower(state, placed).compile() if num_loss_chunks > 1 else compiled
    flops = float(whole.cost_analysis()["flops"])
    kept = [state]

    def run() -> None:
        kept[0], metrics = compiled(kept[0], placed)
        jax.block_until_ready((kept[0], metrics))

    once = peers.timed(run)
    return lambda: (once(), flops)


def make_t5x(config: network.T5Config, batch: Batch) -> peers.Turn:
    """Returns a turn of T5X's trainer on its own network: its seconds."""
    import seqio
    from t5x import models, optimizers, train_state, trainer
    from t5x.examples.t5 import network as t5x_network

    module = t5x_network.Transformer(
        t5x_network.T5Config(
            vocab_size=config.vocab_size,
            dtype="float32",
            emb_dim=config.emb_dim,
            num_heads=config.num_heads,
            num_encoder_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            head_dim=config.head_dim,
            mlp_dim=config.mlp_dim,
            mlp_activations=config.mlp_activations,
            dropout_rate=0.0,
        )
    )
    optimizer = optimizers.OptaxWrapper(optax.adamw(5e-4, weight_decay=0.01))
    vocabulary = seqio.PassThroughVocabulary(config.vocab_size)
    model = models.EncoderDecoderModel(module, vocabulary, vocabulary, optimizer)
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    rows = {name: jnp.asarray(batch[name]) for name in (*names, "decoder_loss_weights")}
    shapes = {name: leaf.shape for name, leaf in rows.items()}
    variables = jax.jit(lambda key: model.get_initial_variables(key, shapes))(jax.random.key(0))
    state = train_state.FlaxOptimTrainState.create(optimizer, variables)

    @functools.partial(jax.jit, donate_argnums=0)
    def train(state: Any, rows: Any) -> Any:
        return trainer.train_with_lr(
            state,
            rows,
            learning_rate=jnp.float32(5e-4),
            dropout_rng=jax.random.key(0),
            model=model,
            num_microbatches=None,
            weight_metrics_computer=None,
        )

    kept = [state]

    def run() -> None:
        kept[0], metrics = train(kept[0], rows)
        jax.block_until_ready((kept[0], metrics))

    return peers.timed(run)


def make_seed(config: network.T5Config, batch: Batch) -> peers.Turn:
    """Returns a turn of the step as the paper's public code makes it: its seconds."""
    names = {
        "inputs": "encoder_input_tokens",
        "targets": "decoder_target_tokens",
        "teacher_ids": "decoder_teacher_ids",
        "teacher_probs": "decoder_teacher_probs",
    }
    rows = range(len(batch["decoder_target_tokens"]))
    examples = [{name: batch[key][row] for name, key in names.items()} for row in rows]
    seed = peers.SeedTrainer(config)

    def run() -> None:
        seed.backward(examples)
        seed.update()

    return peers.timed(run)


def measure(contenders: dict[str, peers.Contender]) -> dict[str, list[Any]]:
    """Returns what each contender measured in every turn, after one that is not counted."""
    found: dict[str, list[Any]] = {name: [] for name in contenders}
    for turn in range(_REPEATS.value + 1):
        for name, contender in contenders.items():
            measured = contender.turn()
            if turn:
                found[name].append(measured)
    return found


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    devices.announce()
    config = network.T5Config(
        vocab_size=_VOCAB.value,
        num_encoder_layers=_LAYERS.value,
        num_decoder_layers=_LAYERS.value,
    )
    batch = make_batch(config)
    contenders = {
        "matrix product": peers.Contender(peers.matrix_product, _SQUARE.value),
        "ours": peers.Contender(make_ours, config, batch, _CHUNKS.value),
    }
    for name, make in {"seed": make_seed, "t5x": make_t5x}.items():
        if name in _ONLY.value:
            try:
                contenders[name] = peers.Contender(make, config, batch)
            except ModuleNotFoundError as error:
                print(f"{name}: left out ({error})")
    seconds = measure(contenders)
    rate = statistics.median(seconds.pop("matrix product"))
    flops = seconds["ours"][0][1]
    seconds["ours"] = [spent for spent, _ in seconds["ours"]]
    tokens = _BATCH.value * (_INPUTS.value + _TARGETS.value)
    print(
        f"batch {_BATCH.value}, inputs {_INPUTS.value}, targets {_TARGETS.value}, K {_TOP_K.value}, "
        f"V {_VOCAB.value}, {_LAYERS.value} + {_LAYERS.value} layers, {_CHUNKS.value} loss chunks"
    )
    for name in seconds:
        ratio = statistics.median(
            other / own for other, own in zip(seconds[name], seconds["ours"], strict=True)
        )
        median = statistics.median(seconds[name])
        print(
            f"{name:>6}: {median:7.3f} s, {tokens / median:8,.0f} tokens/s, ours is {ratio:.2f} times as fast, "
            f"at the matrix product's rate {median / (flops / rate):.2f} times"
        )
    share = flops / statistics.median(seconds["ours"]) / rate
    print(
        f"ours: {flops / 1e9:.0f} GFLOP, {share:.0%} of the {rate / 1e9:.0f} GFLOP/s of a "
        f"{_SQUARE.value}-cube product"
    )


if __name__ == "__main__":
    command.run(app.run, main)
