"""Formats weigh what the original's micro-batches gave them: rates, token weights, loss and gradient."""

import collections
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seqio
import tensorflow as tf

import tasks
from cotdistill_jax import features, formats, losses, network, seqio_tasks
from cotdistill_jax.checkpoints import init_variables
from cotdistill_jax.corpus import arith
from cotdistill_jax.seqio_tasks import micro_batches, seed_batches

LENGTHS = {"inputs": 512, "targets": 96, "teacher_ids": 96, "teacher_probs": 96}
SIZES = seed_batches.BatchSizes(2, 10, 8, 20, 1)  # of the 3B model, in micro-batches
CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


@pytest.fixture(scope="module", autouse=True)
def _corpus(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A small `arith`."""
    assert tasks.mixtures
    folder: pathlib.Path = tmp_path_factory.mktemp("tfds")
    arith.Arith(num_questions=80, data_dir=folder).download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTDISTILL_TFDS_DIR", str(folder))
        yield


def _examples(form: str) -> tf.data.Dataset:
    """The training examples of a format, once, in the order of the corpus."""
    return seqio.TaskRegistry.get(f"arith_{form}_v1").get_dataset(
        LENGTHS, "train", shuffle=False, seed=0
    )


def test_the_targets_of_a_micro_batch_add_up_to_one() -> None:
    targets = [[7, 8, 1], [1], [9, 1]]
    dataset = tf.data.Dataset.from_generator(
        lambda: ({"targets": ids} for ids in targets),
        output_signature={"targets": tf.TensorSpec([None], tf.int32)},
    )
    found = list(micro_batches.weigh(dataset, 2).as_numpy_iterator())
    assert [example["targets"].tolist() for example in found] == targets
    weights = [example[features.WEIGHTS].tolist() for example in found]
    assert weights == [[0.25, 0.25, 0.25], [0.25], [0.25, 0.25]]


@pytest.mark.parametrize("size", seed_batches.BATCH_SIZES)
def test_shares_of_the_loss_are_those_of_the_original(size: str) -> None:
    expected = seed_batches.epoch(seed_batches.BATCH_SIZES[size]).weights
    for name in (f"gsm8k_teacher_seed_{size}_v2", f"arith_seed_{size}_same_question_v2"):
        found = {
            task.split("_", 1)[1] if task.startswith("arith") else task.split("_", 2)[2]: share
            for task, share in seqio_tasks.shares_of_loss(name, {}).items()
        }
        of_form = {
            task.removesuffix("_v1").removesuffix("_by_question"): share
            for task, share in found.items()
        }
        assert of_form == pytest.approx(expected, rel=1e-9)
    rates = seqio.get_mixture_or_task(f"gsm8k_teacher_seed_{size}_v2")
    often = [rates.get_rate(task) for task in rates.tasks if "cot" in task.name]
    assert often[0] == pytest.approx(often[1], rel=1e-3)  # in context as often as zero-shot


def test_token_means_give_answers_a_tenth_of_it() -> None:
    """Mean lengths of GSM8K: rationales of about 120 pieces, answers of 7."""
    means = {
        f"gsm8k_teacher_{name}_v1": 120.0 if form.chain_of_thought else 7.0
        for name, form in formats.FORMATS.items()
    }
    before = seqio_tasks.shares_of_loss("gsm8k_teacher_seed_3b_v1", means)
    assert before["gsm8k_teacher_in_context_answer_only_v1"] == pytest.approx(0.0003, abs=1e-4)


def test_wrong_rationales_are_a_sixth_of_the_micro_batches_and_say_so() -> None:
    shares = seqio_tasks.shares_of_loss("seed_seed_3b_contrastive_v2", {})
    assert shares["seed_in_context_cot_negative_v1"] == pytest.approx(1 / 6)
    right, wrong = "arith_zero_shot_cot_v1", "arith_in_context_cot_v1"
    mixture = seqio_tasks.MicroBatchMixture(
        "contrastive_micro_batches", {right: 1, wrong: 1}, {right: 4, wrong: 2}, negative=[wrong]
    )
    dataset = mixture.get_dataset(LENGTHS, "train", shuffle=False, seed=0, num_epochs=1)
    rows = features.DistillEncDecFeatureConverter(pack=True)(dataset, LENGTHS)
    marked = 0
    for row in rows.take(20).as_numpy_iterator():
        for segment in np.unique(row["decoder_segment_ids"][row["decoder_segment_ids"] > 0]):
            (is_wrong,) = set(
                row["decoder_targets_negative"][row["decoder_segment_ids"] == segment]
            )
            own = row["encoder_input_tokens"][row["encoder_segment_ids"] == segment]
            assert is_wrong == ((own == own[0]).sum() > 4)
            marked += is_wrong
    assert marked > 5


@pytest.mark.parametrize("pack", [True, False])
def test_summed_weights_follow_the_shares(pack: bool) -> None:
    """Over 8,000 drawn examples, after mixing and packing."""
    mixture = seqio_tasks.MicroBatchMixture(
        "drawn_micro_batches",
        {
            f"arith_{form}_v1": rate
            for form, rate in zip(formats.FORMATS, (3, 3, 2, 2), strict=True)
        },
        {f"arith_{form}_v1": getattr(SIZES, form) for form in formats.FORMATS},
    )
    seqio.MixtureRegistry.add_provider(mixture.name, mixture)
    try:
        shares = seqio_tasks.shares_of_loss(mixture.name, {})
        rows = seqio.get_dataset(
            mixture.name,
            LENGTHS,
            dataset_split="train",
            shuffle=True,
            num_epochs=None,
            feature_converter=features.DistillEncDecFeatureConverter(pack=pack),
            seed=0,
        )
        found: collections.Counter[str] = collections.Counter()
        examples = 0
        for row in rows.as_numpy_iterator():
            examples += _add_weights(row, found)
            if examples > 8000:
                break
    finally:
        seqio.MixtureRegistry.remove(mixture.name)
    total = sum(found.values())
    assert {name: weight / total for name, weight in found.items()} == pytest.approx(
        shares, rel=0.05
    )


def _add_weights(row: Mapping[str, np.ndarray], found: collections.Counter[str]) -> int:
    """Adds the weights of a row's examples to those of their tasks; returns how many examples it holds."""
    tokens = row["decoder_target_tokens"]
    segments = row.get("decoder_segment_ids", (tokens > 0).astype(int))
    positions = row.get("decoder_positions", np.arange(len(tokens)))
    inputs = row.get("encoder_segment_ids", (row["encoder_input_tokens"] > 0).astype(int))
    starts = np.flatnonzero((positions == 0) & (segments > 0))
    for start, end in zip(starts, [*starts[1:], int((segments > 0).sum())], strict=True):
        own = row["encoder_input_tokens"][inputs == segments[start]]
        kind = "in_context" if (own == own[0]).sum() > 4 else "zero_shot"  # one "Q" per question
        target = "cot" if row["decoder_teacher_probs"][start].any() else "answer_only"
        found[f"arith_{kind}_{target}_v1"] += float(row["decoder_loss_weights"][start:end].sum())
    return len(starts)


def test_loss_and_gradient_shares_are_those_of_micro_batches() -> None:
    """Against the original's loop: one format a micro-batch, the mean over its target tokens, all counted alike."""
    params = init_variables(CONFIG, jax.random.key(0))["params"]
    of_original, of_ours = {}, {}
    for form in formats.FORMATS:
        size = getattr(SIZES, form)
        examples = list(_examples(form).as_numpy_iterator())
        whole = examples[: len(examples) // size * size]
        means = [
            _loss_and_gradient(params, _micro_batch(whole[at : at + size]))
            for at in range(0, len(whole), size)
        ]
        of_original[form] = _sums(means)
        weighed = micro_batches.weigh(_examples(form).take(len(whole)), size)
        rows = features.DistillEncDecFeatureConverter(pack=True)(weighed, LENGTHS)
        of_ours[form] = _sums(
            [_loss_and_gradient(params, batch) for batch in rows.batch(4).as_numpy_iterator()]
        )
    for part in (0, 1):  # losses, gradient norms
        expected, found = (
            np.array([by_form[form][part] for form in formats.FORMATS])
            for by_form in (of_original, of_ours)
        )
        np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.05)


def _micro_batch(examples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns a padded micro-batch whose target tokens weigh alike and add up to 1."""
    inputs, targets = (LENGTHS[name] for name in ("inputs", "targets"))

    def padded(name: str, length: int) -> np.ndarray:
        rows = [example[name] for example in examples]
        shape = (len(rows), length, *rows[0].shape[1:])
        out = np.zeros(shape, rows[0].dtype)
        for row, values in zip(out, rows, strict=True):
            row[: len(values)] = values
        return out

    tokens = padded("targets", targets)
    mask = (tokens > 0).astype(np.float32)
    return {
        "encoder_input_tokens": padded("inputs", inputs),
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": np.pad(tokens[:, :-1], ((0, 0), (1, 0))),
        "decoder_loss_weights": mask / mask.sum(),
        "decoder_teacher_ids": padded("teacher_ids", targets),
        "decoder_teacher_probs": padded("teacher_probs", targets),
    }


@jax.jit
def _loss_and_gradient(params: object, batch: Mapping[str, np.ndarray]) -> tuple[jax.Array, object]:
    """Returns the weighted sum of the token losses and its gradient."""

    def loss(params: object) -> jax.Array:
        names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
        names += ("encoder_segment_ids", "decoder_segment_ids")
        names += ("encoder_positions", "decoder_positions")
        logits = network.Transformer(CONFIG).apply(
            {"params": params}, *(batch.get(name) for name in names), enable_dropout=False
        )
        token_loss, _ = losses.distribution_matching(logits, batch)
        return jnp.sum(token_loss * batch["decoder_loss_weights"])

    return jax.value_and_grad(loss)(params)


def _sums(parts: list[tuple[jax.Array, object]]) -> tuple[float, float]:
    """Returns the summed loss and the norm of the summed gradient."""
    loss, gradient = jax.tree.map(lambda *values: sum(values), *parts)
    return float(loss), float(optax.tree.norm(gradient))
