"""Measures real target tokens a second on a real mixture: our packed rows beside the seed's padded micro-batches.

    python scripts/benchmark_mixture.py --mixture=gsm8k_gold_all_v1

| contender | work |
|---|---|
| ours | the runner's pipeline and step: packed rows from SeqIO, distribution matching in chunks, clipping, AdamW |
| ours, same batch | that step over and over on one batch: what is missing to it is the input pipeline's |
| the seed's way | Hugging Face's T5 in PyTorch; micro-batches of one format, padded to their longest, its batch sizes; dense teacher target |

All of them: FlanT5-small's dimensions, float32, no dropout, the same examples with the same invented teacher of five candidates for
each token of a chain of thought. They take turns, so that a machine that slows down slows all of them; ratios are of medians. In a
turn the seed's way makes one micro-batch of every format and one update; formats then count by the mixture's rates, the update by
the accumulation. Its examples are tokenised beforehand, so it gets its input for free.
"""

import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax
import seqio
import tensorflow as tf
from absl import app, flags

from cotdistill_jax import features, losses, network, partitioning
from cotdistill_jax.seqio_tasks import seed_batches
from cotdistill_jax.train import data, step

_MIXTURE = flags.DEFINE_string("mixture", "gsm8k_gold_all_v1", "Mixture of the four formats.")
_INPUTS = flags.DEFINE_integer("inputs", 1024, "Encoder positions of a row.")
_TARGETS = flags.DEFINE_integer("targets", 320, "Decoder positions of a row.")
_ROWS = flags.DEFINE_integer("rows", 8, "Packed rows of a step.")
_PARTS = flags.DEFINE_integer("num_microbatches", 2, "Parts of a step.")
_CHUNKS = flags.DEFINE_integer("num_loss_chunks", 4, "Parts of the target positions in our loss.")
_SIZES = flags.DEFINE_enum("seed_sizes", "250m", list(seed_batches.BATCH_SIZES), "Whose batch sizes.")  # fmt: skip
_LAYERS = flags.DEFINE_integer("layers", 8, "Layers of encoder and of decoder.")
_WIDTH = flags.DEFINE_integer("width", 512, "D.")
_TURNS = flags.DEFINE_integer("turns", 3, "Turns that count; one before them does not.")
_ONLY_OURS = flags.DEFINE_bool("only_ours", False, "Leave out the seed's way.")

TOP_K = 5
_PROBS = (0.8, 0.1, 0.04, 0.02, 0.01)
Example = Mapping[str, Any]
Run = Callable[[], tuple[float, float]]


def candidates(targets: tf.Tensor, vocab_size: int) -> tf.Tensor:
    """Returns ids [L, K]: the target token and four others."""
    return (targets[:, None] + 7 * tf.range(TOP_K, dtype=tf.int32)) % vocab_size


def register(mixture: seqio.Mixture) -> tuple[str, dict[str, float]]:
    """Returns a mixture like `mixture` whose examples have a teacher, and the share of each of its tasks."""
    vocabulary = mixture.output_features["targets"].vocabulary
    shares = {}
    for task in mixture.tasks:
        has_teacher = float("answer_only" not in task.name)

        @seqio.map_over_dataset
        def invent(example: Example, has_teacher: float = has_teacher) -> Example:
            ids = candidates(example["targets"], vocabulary.vocab_size)
            probs = tf.ones_like(ids, tf.float32) * _PROBS
            return {**example, "teacher_ids": ids, "teacher_probs": probs * has_teacher}

        name = f"benchmark_{task.name}"
        seqio.TaskRegistry.add(
            name,
            source=task.source,
            preprocessors=[*task.preprocessors, invent],
            output_features=features.output_features(vocabulary, TOP_K),
        )
        shares[name] = mixture.get_rate(task) / mixture.total_rate
    name = f"benchmark_{mixture.name}"
    seqio.MixtureRegistry.add(name, list(shares.items()))
    return name, shares


def make_ours(name: str, config: network.T5Config) -> tuple[dict[str, Run], dict[str, list[int]]]:
    """Returns our two contenders and, per side, the positions that hold a token and all of those read so far.

    A contender makes a step and returns (seconds, real target tokens).
    """
    mesh = partitioning.make_mesh()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-4, weight_decay=0.01))
    lengths = {"inputs": _INPUTS.value, "targets": _TARGETS.value}
    lengths |= dict.fromkeys(("teacher_ids", "teacher_probs"), _TARGETS.value)
    iterator = data.train_iterator(name, lengths, _ROWS.value, seed=0)
    train_step = step.make_train_step(
        mesh,
        config,
        losses.distribution_matching,
        optimizer,
        num_microbatches=_PARTS.value,
        num_loss_chunks=_CHUNKS.value,
    )
    kept: list[Any] = [step.init_state(mesh, config, optimizer, seed=0)]
    same = next(iterator)
    filled = {"encoder": [0, 0], "decoder": [0, 0]}

    def make(read: Callable[[], Any]) -> Run:
        def run() -> tuple[float, float]:
            start = time.perf_counter()
            batch = read()
            kept[0], metrics = train_step(kept[0], step.put_batch(mesh, batch))
            tokens = float(metrics["num_target_tokens"])
            jax.block_until_ready(kept[0])
            seconds = time.perf_counter() - start
            if batch is not same:
                for side, counts in filled.items():
                    counts[0] += int((batch[f"{side}_segment_ids"] > 0).sum())
                    counts[1] += batch[f"{side}_segment_ids"].size
            return seconds, tokens

        return run

    return {"ours": make(lambda: next(iterator)), "ours, same batch": make(lambda: same)}, filled


def micro_batches(name: str, size: int) -> Iterator[list[Example]]:
    """Yields micro-batches of `size` examples of one task."""
    examples = seqio.get_mixture_or_task(name).get_dataset(
        {"inputs": _INPUTS.value, "targets": _TARGETS.value}, shuffle=True, seed=1, num_epochs=None
    )
    batch = []
    for example in examples.as_numpy_iterator():
        batch.append(example)
        if len(batch) == size:
            yield batch
            batch = []


class Seed:
    """The paper's public code: micro-batches of one format, dense targets, softmax, then the logarithm."""

    def __init__(self, config: network.T5Config) -> None:
        """Makes model and optimizer."""
        import torch
        import transformers

        self._torch = torch
        self._vocab_size = config.vocab_size
        self._model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=config.vocab_size,
                d_model=config.emb_dim,
                d_kv=config.head_dim,
                d_ff=config.mlp_dim,
                num_layers=config.num_encoder_layers,
                num_decoder_layers=config.num_decoder_layers,
                num_heads=config.num_heads,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
                decoder_start_token_id=0,
            )
        )
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=5e-4)

    def backward(self, batch: list[Example]) -> tuple[float, int]:
        """Adds one micro-batch's gradient; returns (seconds, real target tokens)."""
        torch = self._torch
        start = time.perf_counter()
        inputs, targets = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(example[name]).long() for example in batch], batch_first=True
            )
            for name in ("inputs", "targets")
        )
        mask = (targets > 0).float()
        logits = self._model(
            input_ids=inputs,
            attention_mask=(inputs > 0).long(),
            decoder_input_ids=torch.nn.functional.pad(targets, (1, 0))[:, :-1],
            decoder_attention_mask=mask.long(),
        ).logits
        if batch[0]["teacher_probs"].any():
            teacher = torch.zeros(*targets.shape, self._vocab_size)
            for row, example in enumerate(batch):
                ids = torch.tensor(example["teacher_ids"]).long()
                probs = torch.tensor(example["teacher_probs"])
                teacher[row, : len(ids)].scatter_(-1, ids, probs)
            student = torch.softmax(logits, dim=-1)
            token_loss = (teacher * torch.log(teacher / (student + 1e-10) + 1e-10)).sum(-1)
        else:
            token_loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="none"
            ).view(targets.shape)
        ((token_loss * mask).sum() / mask.sum()).backward()
        return time.perf_counter() - start, int(mask.sum())

    def update(self) -> float:
        """Makes the optimizer's step; returns its seconds."""
        start = time.perf_counter()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return time.perf_counter() - start


def make_seed(config: network.T5Config, shares: Mapping[str, float]) -> Run:
    """Returns a turn of the seed's way: (seconds, real target tokens) of an average example."""
    sizes = seed_batches.BATCH_SIZES[_SIZES.value]
    of_task = {
        task: getattr(sizes, form)
        for task in shares
        for form in seed_batches.NUM_EXAMPLES
        if form in task
    }
    streams = {task: micro_batches(task, size) for task, size in of_task.items()}
    seed = Seed(config)

    def run() -> tuple[float, float]:
        batches = {task: next(stream) for task, stream in streams.items()}
        done = {task: seed.backward(batch) for task, batch in batches.items()}
        update = seed.update() / sizes.accumulation_steps
        per_batch = {task: share / of_task[task] for task, share in shares.items()}
        seconds = sum(per_batch[task] * (done[task][0] + update) for task in shares)
        return seconds, sum(per_batch[task] * done[task][1] for task in shares)

    return run


def measure(runs: Mapping[str, Run]) -> tuple[dict[str, float], dict[str, float]]:
    """Returns every contender's median target tokens per second, and median seconds per turn."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_TURNS.value + 1):
        for name, run in runs.items():
            elapsed, tokens = run()
            print(
                f"turn {turn}, {name}: {elapsed:.2f} s, {tokens / elapsed:.1f} tokens/s", flush=True
            )
            if turn:
                rates[name].append(tokens / elapsed)
                seconds[name].append(elapsed)
    return (
        {name: statistics.median(found) for name, found in rates.items()},
        {name: statistics.median(found) for name, found in seconds.items()},
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    import tasks  # noqa: F401  registers them

    data.keep_tensorflow_off_accelerators()
    mixture = seqio.get_mixture_or_task(_MIXTURE.value)
    name, shares = register(mixture)
    config = network.T5Config(
        vocab_size=-(-mixture.output_features["targets"].vocabulary.vocab_size // 128) * 128,
        emb_dim=_WIDTH.value,
        num_encoder_layers=_LAYERS.value,
        num_decoder_layers=_LAYERS.value,
    )
    runs, filled = make_ours(name, config)
    if not _ONLY_OURS.value:
        runs["the seed's way"] = make_seed(config, shares)
    rates, seconds = measure(runs)
    print(
        f"{_MIXTURE.value}: {_ROWS.value} packed rows of {_INPUTS.value} + {_TARGETS.value} in {_PARTS.value} parts, "
        f"the seed's batch sizes for {_SIZES.value}"
    )
    shown = ", ".join(f"{side} {used / total:.1%}" for side, (used, total) in filled.items())
    print(f"positions that hold a token: {shown}")
    for contender, rate in rates.items():
        print(
            f"{contender:>16}: {rate:7.1f} real target tokens/s, ours has {rates['ours'] / rate:.2f} times as many"
        )
    print(
        f"step with real data / step on the same batch: {seconds['ours'] / seconds['ours, same batch']:.3f}"
    )


if __name__ == "__main__":
    app.run(main)
