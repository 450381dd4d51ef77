"""Measures real target tokens a second on a real mixture: our packed rows beside the seed's padded micro-batches.

    python scripts/benchmark_mixture.py                                                    # one gold rationale a question
    python scripts/benchmark_mixture.py --samples_per_question=28 --targets=2304 --num_loss_chunks=8

| contender | work |
|---|---|
| ours | the runner's pipeline and step: packed rows from SeqIO, distribution matching in chunks, clipping, AdamW |
| ours, same batches | that step on batches read before: what is missing to it is the input pipeline's |
| the seed's way | Hugging Face's T5 in PyTorch; micro-batches of one format, padded to their longest, its batch sizes; dense teacher target |

All of them: FlanT5-small's dimensions, float32, no dropout, the same examples with the same invented teacher of five candidates for
each token of a chain of thought. Each has a process of its own and they take turns, so that a machine that slows down slows all of
them; rates are tokens over seconds of all turns. In a turn the seed's way makes one micro-batch of every format and one update;
formats then count by the mixture's rates, the update by the accumulation. Its examples are tokenised beforehand, so it gets its input
for free.

GSM8K has one rationale a question, the paper's teacher gave 28 right ones. `--samples_per_question` gives ours each question with so
many rationales (those of other questions, so that lengths vary) one after the other, as the mixtures `*_same_question_v1` do: they
share their inputs. The seed's way gets the same questions and rationales, shuffled as its code does.

A product of two square matrices in the same turns says what can be had at all: no float32 training without padding can make more
tokens a second than at that rate with the FLOPs that products with weights need.
"""

import dataclasses
import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax
import peers
import seqio
import tensorflow as tf
from absl import app, flags

from cotdistill_jax import command, features, losses, network, partitioning
from cotdistill_jax.seqio_tasks import seed_batches
from cotdistill_jax.seqio_tasks.blocks import in_blocks
from cotdistill_jax.train import data, step

flags.DEFINE_string("mixture", "gsm8k_gold_seed_780m_v1", "Mixture of the four formats.")
flags.DEFINE_integer("inputs", 1152, "Encoder positions of a row.")
flags.DEFINE_integer("targets", 384, "Decoder positions of a row.")
flags.DEFINE_integer("rows", 4, "Packed rows of a step.")
flags.DEFINE_integer("num_microbatches", 4, "Parts of a step.")
flags.DEFINE_integer("attention_block", 128, "Positions of a block of our attention; 0: all scores.")  # fmt: skip
flags.DEFINE_integer("num_loss_chunks", 4, "Parts of the target positions in our loss.")
flags.DEFINE_enum("seed_sizes", "780m", list(seed_batches.BATCH_SIZES), "Whose batch sizes.")  # fmt: skip
flags.DEFINE_integer("layers", 8, "Layers of encoder and of decoder.")
flags.DEFINE_integer("width", 512, "D.")
flags.DEFINE_integer("turns", 5, "Turns that count; one before them does not.")
flags.DEFINE_integer("samples_per_question", 1, "Chains of thought of a question.")
flags.DEFINE_bool("only_ours", False, "Leave out the seed's way.")

TOP_K = 5
SIDES = ("encoder", "decoder")
_PROBS = (0.8, 0.1, 0.04, 0.02, 0.01)
Example = Mapping[str, Any]
Turn = tuple[float, float]  # seconds, real target tokens


def candidates(targets: tf.Tensor, vocab_size: int) -> tf.Tensor:
    """Returns ids [L, K]: the target token and four others."""
    return (targets[:, None] + 7 * tf.range(TOP_K, dtype=tf.int32)) % vocab_size


def register(mixture_name: str, samples: int) -> tuple[str, dict[str, float]]:
    """Returns a mixture like the named one whose examples have a teacher, and the share of each of its tasks."""
    import tasks  # noqa: F401  registers them

    data.keep_tensorflow_off_accelerators()
    mixture = seqio.get_mixture_or_task(mixture_name)
    vocabulary = mixture.output_features["targets"].vocabulary
    shares = {}
    for task in mixture.tasks:
        has_teacher = "answer_only" not in task.name

        @seqio.map_over_dataset
        def invent(example: Example, has_teacher: bool = has_teacher) -> Example:
            ids = candidates(example["targets"], vocabulary.vocab_size)
            probs = tf.ones_like(ids, tf.float32) * _PROBS
            return {**example, "teacher_ids": ids, "teacher_probs": probs * float(has_teacher)}

        name = f"benchmark_{task.name}"
        steps = [*task.preprocessors, invent]
        if samples > 1 and has_teacher:
            steps.append(functools.partial(many_samples, samples=samples))
        together = samples > 1  # SeqIO would shuffle a question's samples apart
        seqio.TaskRegistry.add(
            name,
            source=InOrder(task.source) if together else task.source,
            preprocessors=steps,
            output_features=features.output_features(vocabulary, TOP_K),
            **({"shuffle_buffer_size": None} if together else {}),
        )
        shares[name] = mixture.get_rate(task) / mixture.total_rate
    name = f"benchmark_{mixture.name}"
    blocks = in_blocks([samples] * len(shares)) if samples > 1 else None
    seqio.MixtureRegistry.add(
        name, list(shares.items()), **({"sample_fn": blocks} if blocks else {})
    )
    return name, shares


class InOrder(seqio.FunctionDataSource):
    """The rows of another source, which nobody shuffles."""

    def __init__(self, source: seqio.DataSource) -> None:
        """Keeps the source."""
        super().__init__(
            lambda split, shuffle_files, seed=None: source.get_dataset(split, shuffle=False),
            splits=source.splits,
        )

    @property
    def performs_internal_shuffling(self) -> bool:
        """True, so that SeqIO leaves the order alone."""
        return True


def many_samples(dataset: tf.data.Dataset, samples: int) -> tf.data.Dataset:
    """Returns every question `samples` times, one after the other, with the targets of so many examples."""
    questions = dataset.flat_map(
        lambda example: tf.data.Dataset.from_tensors(example["inputs"]).repeat(samples)
    )
    return tf.data.Dataset.zip(questions, dataset.repeat(samples)).map(
        lambda inputs, example: {**example, "inputs": inputs}
    )


def make_ours(settings: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
    """Returns a turn: `read` and `kept`, (seconds, target tokens) of two steps; `filled`, per side the share of positions.

    Args:
        settings: values of the flags by name.
    """
    name, _ = register(settings["mixture"], settings["samples_per_question"])
    config = dataclasses.replace(
        network_config(settings), attention_block=settings["attention_block"] or None
    )
    mesh = partitioning.make_mesh()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-4, weight_decay=0.01))
    lengths = {"inputs": settings["inputs"], "targets": settings["targets"]}
    lengths |= dict.fromkeys(("teacher_ids", "teacher_probs"), settings["targets"])
    iterator = data.train_iterator(name, lengths, settings["rows"], seed=0)
    train_step = step.make_train_step(
        mesh,
        config,
        losses.distribution_matching,
        optimizer,
        num_microbatches=settings["num_microbatches"],
        num_loss_chunks=settings["num_loss_chunks"],
    )
    state = [step.init_state(mesh, config, optimizer, seed=0)]
    last: list[Any] = [next(iterator)]

    def train(read: Callable[[], Any]) -> Turn:
        start = time.perf_counter()
        last[0] = read()
        state[0], metrics = train_step(state[0], step.put_batch(mesh, last[0]))
        tokens = float(metrics["num_target_tokens"])
        jax.block_until_ready(state[0])
        return time.perf_counter() - start, tokens

    def turn() -> dict[str, Any]:
        train(lambda: last[0])  # takes back the memory that the others' turns pushed out
        kept = train(lambda: last[0])
        read = train(lambda: next(iterator))
        filled = {side: float((last[0][f"{side}_segment_ids"] > 0).mean()) for side in SIDES}
        begins = (last[0]["decoder_positions"] == 0) & (last[0]["decoder_segment_ids"] > 0)
        filled["examples"] = float(begins.sum(axis=1).mean())
        return {"read": read, "kept": kept, "filled": filled}

    return turn


def network_config(settings: Mapping[str, Any]) -> network.T5Config:
    """Returns FlanT5-small's dimensions, or what the flags say, for T5's vocabulary."""
    return network.T5Config(
        emb_dim=settings["width"],
        num_encoder_layers=settings["layers"],
        num_decoder_layers=settings["layers"],
    )


def micro_batches(name: str, size: int, longest: int) -> Iterator[list[Example]]:
    """Yields micro-batches of `size` examples of one task, with inputs of at most `longest` tokens."""
    examples = seqio.get_mixture_or_task(name).get_dataset(
        {"inputs": longest, "targets": longest}, shuffle=True, seed=1, num_epochs=None
    )
    batch = []
    for example in examples.as_numpy_iterator():
        batch.append(example)
        if len(batch) == size:
            yield batch
            batch = []


def make_seed(settings: Mapping[str, Any]) -> Callable[[], tuple[float, float]]:
    """Returns a turn of the seed's way: (seconds, real target tokens) of an average example."""
    _, shares = register(settings["mixture"], samples=1)
    sizes = seed_batches.BATCH_SIZES[settings["seed_sizes"]]
    of_task = {
        task: getattr(sizes, form)
        for task in shares
        for form in seed_batches.NUM_EXAMPLES
        if form in task
    }
    streams = {
        task: micro_batches(task, size, settings["inputs"]) for task, size in of_task.items()
    }
    seed = peers.SeedTrainer(network_config(settings))

    def turn() -> Turn:
        tokens, seconds = {}, {}
        for task, stream in streams.items():
            batch = next(stream)
            start = time.perf_counter()
            tokens[task] = seed.backward(batch)
            seconds[task] = time.perf_counter() - start
        update = peers.timed(seed.update)() / sizes.accumulation_steps
        weights = {task: share / of_task[task] for task, share in shares.items()}
        spent = sum(weight * (seconds[task] + update) for task, weight in weights.items())
        return spent, sum(weight * tokens[task] for task, weight in weights.items())

    return turn


def flops_per_token(settings: Mapping[str, Any]) -> float:
    """Returns the FLOPs of products with weights that an average target token of the mixture needs, its question's share in it.

    Six for each weight and token: two for a product, forwards and twice backwards. Attention's own products are left out, so
    this is too little.
    """
    name, _ = register(settings["mixture"], samples=1)
    config = network_config(settings)
    examples = seqio.get_mixture_or_task(name).get_dataset(
        {"inputs": settings["inputs"], "targets": settings["targets"]}, shuffle=True, seed=2
    )
    inputs = targets = 0.0
    for example in examples.take(2000).as_numpy_iterator():
        shared_by = settings["samples_per_question"] if example["teacher_probs"].any() else 1
        inputs += len(example["inputs"]) / shared_by
        targets += len(example["targets"])
    joined = config.num_heads * config.head_dim
    attention = 4 * config.emb_dim * joined
    mlp = (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim
    of_input = config.num_encoder_layers * (attention + mlp)
    of_input += config.num_decoder_layers * attention // 2  # keys and values of the cross-attention
    of_target = config.num_decoder_layers * (attention + attention // 2 + mlp)
    of_target += config.emb_dim * config.vocab_size
    return 6 * (of_input * inputs / targets + of_target)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for `tasks`
    settings = {flag.name: flag.value for flag in flags.FLAGS.get_key_flags_for_module("__main__")}
    needed = flops_per_token(settings)
    contenders = {
        "product": peers.Contender(peers.matrix_product, 2048),
        "ours": peers.Contender(make_ours, settings),
    }
    if not settings["only_ours"]:
        contenders["seed"] = peers.Contender(make_seed, settings)
    found: dict[str, list[Any]] = {name: [] for name in contenders}
    for number in range(settings["turns"] + 1):
        for name, contender in contenders.items():
            measured = contender.turn()
            print(f"turn {number}, {name}: {measured}", flush=True)
            if number:
                found[name].append(measured)
    report(settings, found, needed)


def report(settings: Mapping[str, Any], found: Mapping[str, list[Any]], needed: float) -> None:
    """Prints rates and ratios."""
    turns = {key: [turn[key] for turn in found["ours"]] for key in ("read", "kept", "filled")}
    rates = {"ours": rate(turns["read"]), "ours, same batches": rate(turns["kept"])}
    if "seed" in found:
        rates["the seed's way"] = rate(found["seed"])
    product = statistics.median(found["product"])
    rates["at the product's rate"] = product / needed
    print(
        f"{settings['mixture']}: {settings['rows']} packed rows of {settings['inputs']} + {settings['targets']} in "
        f"{settings['num_microbatches']} parts, blocks of {settings['attention_block']}, {settings['samples_per_question']} samples a question, the seed's batch "
        f"sizes for {settings['seed_sizes']}"
    )
    means = {
        key: statistics.mean(filled[key] for filled in turns["filled"])
        for key in turns["filled"][0]
    }
    shown = ", ".join(f"{side} {means[side]:.1%}" for side in SIDES)
    print(f"positions that hold a token: {shown}; {means['examples']:.1f} examples a row")
    for name, tokens in rates.items():
        print(
            f"{name:>22}: {tokens:7.1f} real target tokens/s, ours has {rates['ours'] / tokens:.2f} times as many"
        )
    seconds = {key: statistics.median(spent for spent, _ in turns[key]) for key in ("read", "kept")}
    print(f"step with real data / step on the same batch: {seconds['read'] / seconds['kept']:.3f}")


def rate(turns: list[Turn]) -> float:
    """Returns target tokens per second over all turns."""
    return sum(tokens for _, tokens in turns) / sum(seconds for seconds, _ in turns)


if __name__ == "__main__":
    command.run(app.run, main)
