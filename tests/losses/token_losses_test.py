"""Token losses equal a dense float64 reference, with finite, correct gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cotdistill_jax import losses

Made = tuple[np.ndarray, dict[str, np.ndarray]]
COMBINATIONS = [
    (divergence, rule)
    for divergence in losses.DIVERGENCES
    for rule in losses.TAIL_RULES
    if divergence != "reverse_kl" or rule not in ("drop", "renormalize_teacher")
]


@functools.partial(jax.value_and_grad, has_aux=True)
def value_and_grad(
    logits: jax.Array, batch: dict[str, jax.Array], weight: float = 1.0, **options: Any
) -> tuple[jax.Array, jax.Array]:
    """Returns ((weighted sum, token losses), gradient with respect to the logits)."""
    token_loss, _ = losses.distribution_matching(logits, batch, **options)
    return (weight * token_loss).sum(), token_loss


def test_docstring_examples() -> None:
    logits = jnp.zeros([1, 1, 2])
    batch = {
        "decoder_target_tokens": jnp.array([[1]]),
        "decoder_teacher_ids": jnp.array([[[0, 1]]]),
        "decoder_teacher_probs": jnp.array([[[0.75, 0.25]]]),
    }
    np.testing.assert_allclose(losses.sample_matching(logits, batch)[0], [[0.6931472]], rtol=1e-6)
    matched, parts = losses.distribution_matching(logits, batch)
    np.testing.assert_allclose(matched, [[0.130812]], rtol=1e-5)
    assert {name: part.shape for name, part in parts.items()} == dict.fromkeys(
        ("nll", "z_loss", "correct", "divergence", "has_teacher"), (1, 1)
    )


@pytest.mark.parametrize(("divergence", "rule"), COMBINATIONS)
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 2.0, "nll_weight": 0.25, "z_loss": 1e-2}, {"temperature": 0.5}]
)
def test_equals_dense_reference(
    make_batch: Callable[..., Made],
    reference: Callable[..., np.ndarray],
    divergence: str,
    rule: str,
    options: dict[str, float],
) -> None:
    logits, batch = make_batch()
    made, parts = losses.distribution_matching(
        logits, batch, divergence=divergence, tail_rule=rule, **options
    )
    expected = reference(logits, batch, divergence=divergence, tail_rule=rule, **options)
    assert made.dtype == jnp.float32
    # float32 eps 1.2e-7 times a few dozen operations on losses up to about 30.
    np.testing.assert_allclose(made, expected, rtol=2e-6, atol=4e-6)
    has_teacher = np.asarray(parts["has_teacher"])
    assert 0 < has_teacher.sum() < has_teacher.size


def test_sample_matching_equals_reference(
    make_batch: Callable[..., Made], reference: Callable[..., np.ndarray]
) -> None:
    logits, batch = make_batch()
    made, parts = losses.sample_matching(logits, batch, z_loss=1e-2)
    without = {**batch, "decoder_teacher_probs": np.zeros_like(batch["decoder_teacher_probs"])}
    np.testing.assert_allclose(made, reference(logits, without, z_loss=1e-2), rtol=2e-6)
    targets = batch["decoder_target_tokens"]
    np.testing.assert_array_equal(parts["correct"], logits.argmax(-1) == targets)
    assert not parts["divergence"].any()


def test_real_vocabulary_and_large_logits(
    make_batch: Callable[..., Made], reference: Callable[..., np.ndarray]
) -> None:
    logits, batch = make_batch(v=32_128, scale=20.0, shape=(2, 6))
    made, _ = losses.distribution_matching(logits, batch)
    # Losses reach 100 here: their float32 spacing is 7.6e-6.
    np.testing.assert_allclose(made, reference(logits, batch), rtol=1e-6, atol=2e-5)


def test_seed_formula_against_its_dense_transcription(make_batch: Callable[..., Made]) -> None:
    """softmax, dense [V] target, p * log(p / (q + 1e-10) + 1e-10) summed over the vocabulary."""
    logits, batch = make_batch(v=200, scale=8.0)
    q = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    q /= q.sum(-1, keepdims=True)
    dense = np.zeros_like(q)
    for at in np.ndindex(dense.shape[:-1]):
        for token, prob in zip(
            batch["decoder_teacher_ids"][at], batch["decoder_teacher_probs"][at], strict=True
        ):
            if prob > 0:
                dense[at][token] = prob
    expected = (dense * np.log(dense / (q + 1e-10) + 1e-10)).sum(-1)
    made, parts = losses.distribution_matching(logits, batch, divergence="seed_kl")
    has_teacher = np.asarray(parts["has_teacher"], bool)
    np.testing.assert_allclose(made[has_teacher], expected[has_teacher], rtol=2e-6, atol=4e-6)
    np.testing.assert_array_equal(made[~has_teacher], parts["nll"][~has_teacher])


def test_seed_formula_differs_only_for_tiny_student_probabilities() -> None:
    batch = {
        "decoder_target_tokens": jnp.array([[0, 0]]),
        "decoder_teacher_ids": jnp.array([[[1], [1]]]),
        "decoder_teacher_probs": jnp.array([[[0.9], [0.9]]]),
    }
    logits = jnp.array([[[0.0, -2.0], [0.0, -60.0]]])

    def first(divergence: str) -> tuple[jax.Array, jax.Array]:
        (_, token_loss), gradient = value_and_grad(logits, batch, divergence=divergence)
        return token_loss[0], gradient[0, :, 1]

    clean, clean_gradient = first("forward_kl")
    seed, seed_gradient = first("seed_kl")
    np.testing.assert_allclose(clean[0], seed[0], rtol=1e-6)
    assert clean[1] - seed[1] > 30  # nats
    np.testing.assert_allclose(clean_gradient[1], -0.9, rtol=1e-6)
    assert abs(seed_gradient[1]) < 1e-12


@pytest.mark.parametrize(("divergence", "rule"), COMBINATIONS)
def test_gradients(make_batch: Callable[..., Made], divergence: str, rule: str) -> None:
    logits, batch = make_batch(shape=(2, 4), v=12, scale=1.0)
    weights = np.linspace(0.0, 1.0, 8, dtype=np.float32).reshape(2, 4)

    def total(logits: jax.Array) -> jax.Array:
        token_loss, _ = losses.distribution_matching(
            logits,
            batch,
            divergence=divergence,
            tail_rule=rule,
            temperature=1.5,
            nll_weight=0.3,
            z_loss=1e-2,
        )
        return (token_loss * weights).sum()

    # float32 numerical derivatives: step 1e-2, so relative errors of about (1e-2)^2.
    check_grads(total, (logits,), order=1, modes=("rev",), eps=1e-2, atol=2e-3, rtol=2e-3)


def test_gradient_of_the_papers_loss_is_mass_times_softmax_minus_teacher(
    make_batch: Callable[..., Made],
) -> None:
    logits, batch = make_batch()
    _, gradient = value_and_grad(logits, batch)
    q = jax.nn.softmax(logits, axis=-1)
    for at in np.ndindex(logits.shape[:-1]):
        probs, ids = batch["decoder_teacher_probs"][at], batch["decoder_teacher_ids"][at]
        expected = np.array(q[at])
        if probs.sum() > 0:
            expected = expected * probs.sum()
            np.add.at(expected, ids, -probs)
        else:
            expected[batch["decoder_target_tokens"][at]] -= 1
        np.testing.assert_allclose(gradient[at], expected, atol=5e-7)


@pytest.mark.parametrize(("divergence", "rule"), COMBINATIONS)
def test_finite_for_extreme_logits_empty_rows_and_zero_weights(
    make_batch: Callable[..., Made], divergence: str, rule: str
) -> None:
    logits, batch = make_batch(scale=3000.0)
    batch["decoder_teacher_ids"][0, 0] = 1_000_000  # an unused slot's id is never looked at
    batch["decoder_teacher_probs"][0, 0] = 0.0

    for weight in (0.0, 1.0):
        (value, _), gradient = value_and_grad(
            logits, batch, weight, divergence=divergence, tail_rule=rule, temperature=2.0
        )
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert gradient.any() == bool(weight)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), combination=st.sampled_from(COMBINATIONS))
def test_divergence_of_normalised_distributions_is_not_negative(
    seed: int, combination: tuple[str, str]
) -> None:
    divergence, rule = combination
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((1, 4, 9)).astype(np.float32) * 3
    batch = {
        "decoder_target_tokens": np.zeros((1, 4), np.int32),
        "decoder_teacher_ids": np.tile(rng.permutation(9)[:5].astype(np.int32), (1, 4, 1)),
        "decoder_teacher_probs": rng.dirichlet(np.ones(6), (1, 4))[..., :5].astype(np.float32),
    }
    made, parts = losses.distribution_matching(
        logits, batch, divergence=divergence, tail_rule=rule, temperature=1.3
    )
    np.testing.assert_array_equal(made, parts["divergence"])
    if rule == "drop" and divergence in ("forward_kl", "seed_kl"):
        mass = batch["decoder_teacher_probs"].sum(-1)
        assert (made >= 1.69 * mass * np.log(mass) - 1e-5).all()
    else:
        # The tail floor may add at most its own size.
        assert (made >= -1e-4).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), combination=st.sampled_from(COMBINATIONS))
def test_divergence_vanishes_where_the_student_equals_the_teacher(
    seed: int, combination: tuple[str, str]
) -> None:
    divergence, rule = combination
    rng = np.random.default_rng(seed)
    # Two tokens outside the top 5 share the tail evenly: every rule's two sides can be equal.
    top = np.sort(rng.dirichlet(np.ones(5)))[::-1] * 0.9
    q = np.append(top, [0.05, 0.05])
    if rule == "renormalize_teacher" or rule == "drop":
        q[5:] = 1e-9
        top = q[:5] = top / 0.9
    batch = {
        "decoder_target_tokens": np.zeros((1, 1), np.int32),
        "decoder_teacher_ids": np.arange(5, dtype=np.int32)[None, None],
        "decoder_teacher_probs": top[None, None].astype(np.float32),
    }
    logits = jnp.log(q)[None, None].astype(jnp.float32)
    (value, _), gradient = value_and_grad(logits, batch, divergence=divergence, tail_rule=rule)
    assert abs(value) < 2e-6
    assert np.abs(gradient).max() < 2e-6


def test_rows_without_teacher_fall_back_token_by_token(make_batch: Callable[..., Made]) -> None:
    logits, batch = make_batch()
    made, parts = losses.distribution_matching(logits, batch, nll_weight=0.5, z_loss=1e-3)
    sample, _ = losses.sample_matching(logits, batch, z_loss=1e-3)
    without = np.asarray(parts["has_teacher"]) == 0
    np.testing.assert_array_equal(made[without], sample[without])
    assert (np.asarray(made)[~without] != np.asarray(sample)[~without]).any()


def test_nll_weight_one_is_sample_matching(make_batch: Callable[..., Made]) -> None:
    logits, batch = make_batch()
    made, _ = losses.distribution_matching(logits, batch, nll_weight=1.0)
    np.testing.assert_allclose(made, losses.sample_matching(logits, batch)[0], rtol=1e-6)


def test_one_hot_teacher_is_nll(make_batch: Callable[..., Made]) -> None:
    logits, batch = make_batch()
    batch["decoder_teacher_ids"][...] = batch["decoder_target_tokens"][..., None]
    batch["decoder_teacher_probs"][...] = [1.0, 0.0, 0.0, 0.0, 0.0]
    made, parts = losses.distribution_matching(logits, batch)
    np.testing.assert_allclose(made, parts["nll"], rtol=1e-6)


def test_bfloat16_logits_are_computed_in_float32(make_batch: Callable[..., Made]) -> None:
    logits, batch = make_batch(scale=5.0)
    rounded = jnp.asarray(logits, jnp.bfloat16)
    made, _ = losses.distribution_matching(rounded, batch)
    expected, _ = losses.distribution_matching(rounded.astype(jnp.float32), batch)
    assert made.dtype == jnp.float32
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "unknown divergence 'kl'; .* forward_kl, reverse_kl, jsd, seed_kl"),
        ({"tail_rule": "top"}, "unknown tail rule 'top'; .* drop, renormalize_teacher, renorm"),
        ({"divergence": "reverse_kl"}, "infinite with tail rule drop.*renormalize_both, tail_b"),
        ({"temperature": 0.0}, r"temperature must be > 0 .*got temperature 0\.0"),
        ({"nll_weight": 1.5}, r"nll_weight in \[0, 1\].*nll_weight 1\.5"),
    ],
)
def test_wrong_options_raise(
    make_batch: Callable[..., Made], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        losses.distribution_matching(*make_batch(), **options)


def test_batch_without_or_with_wrong_teacher_raises(make_batch: Callable[..., Made]) -> None:
    logits, batch = make_batch()
    without = {"decoder_target_tokens": batch["decoder_target_tokens"]}
    with pytest.raises(ValueError, match=r"needs.*decoder_teacher_ids.*use sample_matching"):
        losses.distribution_matching(logits, without)
    narrow = {**batch, "decoder_teacher_probs": batch["decoder_teacher_probs"][..., :3]}
    with pytest.raises(ValueError, match=r"\(3, 8, 5\).*\(3, 8, 3\).*\(3, 8, 50\) do not fit"):
        losses.distribution_matching(logits, narrow)


def test_id_outside_the_vocabulary_gives_nan(make_batch: Callable[..., Made]) -> None:
    logits, batch = make_batch()
    batch["decoder_teacher_ids"][0, 0, 0] = 50
    batch["decoder_teacher_probs"][0, 0, 0] = 0.5
    made, _ = losses.distribution_matching(logits, batch)
    assert np.isnan(made[0, 0])
    assert np.isfinite(made[1:]).all()


def test_unlikelihood_pushes_wrong_targets_away_and_leaves_right_ones_to_the_other_loss(
    make_batch: Callable[..., Made],
) -> None:
    logits, batch = make_batch()
    shape = batch["decoder_target_tokens"].shape
    wrong = np.arange(shape[1]) % 2 * np.ones(shape, np.int32)
    marked = {**batch, "decoder_targets_negative": wrong}
    matching = functools.partial(losses.distribution_matching, tail_rule="drop")

    def total(logits: jax.Array) -> jax.Array:
        found, _ = losses.unlikelihood(logits, marked, positive=matching, negative_weight=0.5)
        return found.sum()

    found, parts = losses.unlikelihood(logits, marked, positive=matching, negative_weight=0.5)
    dense = np.asarray(logits, np.float64)
    q = np.exp(dense - np.logaddexp.reduce(dense, axis=-1, keepdims=True))
    of_target = np.take_along_axis(q, batch["decoder_target_tokens"][..., None], -1)[..., 0]
    expected = np.where(wrong, -0.5 * np.log(1 - of_target + 1e-5), matching(logits, batch)[0])
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(parts["nll"], -np.log(of_target), rtol=1e-5, atol=1e-6)
    gradient = np.asarray(jax.grad(total)(jnp.asarray(logits)))
    down = np.take_along_axis(gradient, batch["decoder_target_tokens"][..., None], -1)[..., 0]
    assert np.isfinite(gradient).all() and (down[wrong == 1] > 0).all()
    certain = jnp.full([1, 1, 2], 0.0).at[0, 0, 1].set(200.0)  # q = 1
    one = {"decoder_target_tokens": jnp.array([[1]]), "decoder_targets_negative": jnp.array([[1]])}
    np.testing.assert_allclose(losses.unlikelihood(certain, one)[0], [[-np.log(1e-5)]], rtol=1e-5)


def test_wrong_targets_are_refused_by_losses_that_would_teach_them(
    make_batch: Callable[..., Made],
) -> None:
    logits, batch = make_batch()
    marked = {**batch, "decoder_targets_negative": np.zeros_like(batch["decoder_target_tokens"])}
    for loss in (losses.sample_matching, losses.distribution_matching):
        with pytest.raises(ValueError, match=r"wrong rationales.*losses\.unlikelihood"):
            loss(logits, marked)
    with pytest.raises(
        ValueError, match=r"unlikelihood needs decoder_targets_negative.*seed_3b_con"
    ):
        losses.unlikelihood(logits, batch)
