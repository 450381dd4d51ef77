"""Decoding: greedy equals the uncached network, batching changes nothing, samplers draw correctly."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cotdistill_jax import decoding, network
from cotdistill_jax.decoding import continuous
from cotdistill_jax.decoding import step as token_step

# A vocabulary this small and weights this large make rows emit EOS at varied places.
CONFIG = network.T5Config(
    vocab_size=12,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
LENGTH = 20
FP32_ATOL = 1e-4  # the project's bound for float32 logits of the same weights


@functools.cache
def _params() -> dict:
    model = network.Transformer(CONFIG)
    token = jnp.ones((1, 2), jnp.int32)
    init = jax.jit(lambda key: model.init(key, token, token, token, enable_dropout=False))
    params = init(jax.random.key(0))["params"]
    return jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim == 2 else leaf, params)


def _prompts(count: int = 24, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, count)
    return [rng.integers(2, CONFIG.vocab_size, n).tolist() for n in lengths]


def _pad(prompts: list[list[int]]) -> np.ndarray:
    rows = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    return rows


@functools.partial(jax.jit, static_argnames="length")
def _forward(inputs, targets, length):
    del length
    shifted = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    model = network.Transformer(CONFIG)
    # Padding of the targets must not hide the pad token that starts the decoder: all ones are real.
    return model.apply(
        {"params": _params()}, inputs, shifted, jnp.ones_like(targets), enable_dropout=False
    )


def _slow_greedy(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs the whole uncached decoder once per token."""
    tokens = np.zeros((len(inputs), LENGTH), np.int32)
    log_probs = np.zeros((len(inputs), LENGTH), np.float32)
    finished = np.zeros(len(inputs), bool)
    for step in range(LENGTH):
        scores = np.asarray(jax.nn.log_softmax(_forward(inputs, tokens, LENGTH)[:, step]))
        tokens[:, step] = np.where(finished, 0, scores.argmax(-1))
        log_probs[:, step] = np.where(finished, 0, scores.max(-1))
        finished |= tokens[:, step] == 1
    return tokens, log_probs


def test_greedy_equals_the_uncached_network():
    inputs = _pad(_prompts())
    got = decoding.greedy(CONFIG, _params(), inputs, LENGTH)
    tokens, log_probs = _slow_greedy(inputs)
    np.testing.assert_array_equal(got.tokens, tokens)
    np.testing.assert_allclose(got.log_probs, log_probs, atol=FP32_ATOL)
    ends = np.where((tokens == 1).any(axis=1), (tokens == 1).argmax(axis=1), LENGTH)
    assert len(set(ends.tolist())) == 6, "rows should end at different places"
    after_end = np.arange(LENGTH) > ends[:, None]
    assert not np.asarray(got.log_probs)[after_end].any()
    assert np.asarray(got.log_probs)[~after_end].all()


def _logits_of_a_step(config, params, inputs, kind):
    """Returns the logits after one token, by the network and by prepared weights."""
    model = network.Transformer(config)
    weights = decoding.prepare(config, params, kind)
    source = jax.jit(token_step.encode, static_argnums=0)(config, weights, inputs)
    tokens = jnp.arange(len(inputs), dtype=jnp.int32) % 10 + 2
    apply = jax.jit(model.apply, static_argnames="enable_dropout")
    expected = apply(
        {"params": params}, inputs, tokens[:, None], tokens[:, None], enable_dropout=False
    )
    step = jax.jit(token_step.logits, static_argnames=("config", "dynamic"))
    got, cache = step(
        config,
        weights.step,
        token_step.empty_cache(config, source, 4),
        weights.start["token_embedder"]["embedding"][tokens].astype(config.dtype),
        network.biases.mask_bias(inputs > 0)[:, None],
        dynamic=kind == token_step.INT8_DYNAMIC,
    )
    assert cache.clock == 1
    return np.asarray(expected[:, 0]), np.asarray(got)


@pytest.mark.parametrize(
    "changes",
    [{}, {"mlp_activations": ("relu",), "logits_via_embedding": True}],
    ids=["1.1", "1.0"],
)
def test_prepared_weights_give_the_networks_logits(changes):
    config = dataclasses.replace(CONFIG, **changes)
    token = jnp.ones((1, 2), jnp.int32)
    init = functools.partial(network.Transformer(config).init, enable_dropout=False)
    params = init(jax.random.key(0), token, token, token)["params"]
    expected, got = _logits_of_a_step(config, params, jnp.asarray(_pad(_prompts(3))), "float")
    np.testing.assert_allclose(got, expected, atol=FP32_ATOL)


def test_eight_bit_weights_are_the_network_of_rounded_kernels():
    inputs = jnp.asarray(_pad(_prompts(3)))
    flat = traverse_util.flatten_dict(_params())
    kept = {("encoder_decoder_attention", "key"), ("encoder_decoder_attention", "value")}
    rounded = {}
    for path, leaf in flat.items():
        rounded[path] = leaf
        if path[0] == "decoder" and path[-1] == "kernel" and path[-3:-1] not in kept:
            values, scales = token_step._rounded(leaf, axis=0)
            assert values.dtype == jnp.int8 and scales.shape == (1, leaf.shape[1])
            rounded[path] = values * scales
            assert (jnp.abs(rounded[path] - leaf) <= 0.5001 * scales).all()
    rounded = traverse_util.unflatten_dict(rounded)
    expected, _ = _logits_of_a_step(CONFIG, rounded, inputs, "float")
    _, got = _logits_of_a_step(CONFIG, _params(), inputs, "int8")
    np.testing.assert_allclose(got, expected, atol=FP32_ATOL)


def test_dynamic_products_are_within_half_a_step_of_the_activations():
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(1, 5, 40)), rng.normal(size=(40, 3))
    x[:, 2] = 0.0  # a row of zeros stays zeros
    kernel = token_step.Int8Kernel(*token_step._rounded(jnp.asarray(weight, jnp.float32), axis=-1))
    got = token_step._multiply(kernel, jnp.asarray(x, jnp.float32), dynamic=True)
    whole = np.asarray(kernel.values * kernel.scales, np.float64)
    bound = np.abs(whole).sum(axis=-1)[..., None] * np.abs(x).max(axis=0) / 127 / 2
    error = np.abs(got - whole @ x)
    assert (error <= bound * 1.001).all() and error[..., :2].max() > 0


def test_prepared_weights_are_prepared_once():
    prompts = _prompts(4)
    weights = decoding.prepare(CONFIG, _params())
    again = decoding.generate(CONFIG, weights, prompts, LENGTH, batch_size=4)
    assert again == decoding.generate(CONFIG, _params(), prompts, LENGTH, batch_size=4)


def test_what_cannot_be_prepared_is_named():
    with pytest.raises(ValueError, match="unknown weights 'int4'; allowed: float, int8, int8_dyn"):
        decoding.prepare(CONFIG, _params(), "int4")
    scanned = dataclasses.replace(CONFIG, scan_layers=True)
    with pytest.raises(ValueError, match=r"use network\.unstack_layers\(params\)"):
        decoding.prepare(scanned, _params())


def test_weights_are_laid_out_in_place_of_the_decoders_layers():
    params = jax.tree.map(jnp.asarray, _params())
    kept = decoding.prepare(CONFIG, params)
    assert "layers_0" in params["decoder"]
    consumed = decoding.prepare(CONFIG, params, consume=True)
    assert not [name for name in params["decoder"] if name.startswith("layers_")]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, consumed, kept))


def test_compilations_are_few():
    """Two buckets of prompts: a loop and an encoder each, one cut, three ways to place a prompt, and two that have one shape."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, CONFIG.vocab_size, n).tolist() for n in range(1, 61, 5)]
    decoding.generate(CONFIG, _params(), [[3]], 7, batch_size=5)
    before = _num_compiled()
    decoding.generate(CONFIG, _params(), prompts, 6, batch_size=5)
    first = _num_compiled() - before
    decoding.generate(CONFIG, _params(), prompts[::-1], 6, batch_size=5)
    assert _num_compiled() - before == first
    assert first <= 10


def _num_compiled() -> int:
    functions = (
        *(getattr(continuous, name) for name in ("_advance", "_empty", "_encode", "_fit", "_keys", "_place", "_results")),
        token_step._layer,
        token_step._output,
    )  # fmt: skip
    return sum(function._cache_size() for function in functions)


def test_the_loop_stops_when_all_rows_have_ended():
    inputs = _pad(_prompts())
    calls = []

    def count_and_end(logits, keys):
        del keys
        jax.debug.callback(lambda: calls.append(1))
        return jnp.ones(logits.shape[0], jnp.int32)

    done = decoding.sample(CONFIG, _params(), inputs, jax.random.key(0), 50, count_and_end)
    jax.block_until_ready(done)
    jax.effects_barrier()
    assert len(calls) == 1
    assert np.asarray(done.tokens)[:, 0].tolist() == [1] * len(inputs)
    assert not np.asarray(done.tokens)[:, 1:].any()


def test_generate_returns_the_order_of_the_prompts_whatever_the_batch():
    prompts = _prompts(30)
    alone = np.asarray(decoding.greedy(CONFIG, _params(), _pad(prompts), LENGTH).tokens)
    for batch_size in (3, 8):
        got = decoding.generate(CONFIG, _params(), prompts, LENGTH, batch_size=batch_size)
        assert len(got) == 30
        for completion, row in zip(got, alone, strict=True):
            length = len(completion.tokens)
            assert completion.tokens == row.tolist()[:length]
            assert completion.finished == (completion.tokens[-1] == 1)
            assert completion.finished or length == LENGTH
            assert not row[length:].any()
            assert len(completion.log_probs) == length and completion.top_ids == [[]] * length
        assert any(c.finished for c in got) and any(not c.finished for c in got)


def test_the_ring_of_produced_tokens_follows_the_longest_text(monkeypatch):
    prompts = _prompts(30)
    expected = decoding.generate(CONFIG, _params(), prompts, LENGTH, batch_size=4)
    sizes = [4]
    fit = continuous._fit

    def noted(state, length, num_slots, mesh):
        sizes.append(num_slots)
        return fit(state, length, num_slots, mesh)

    monkeypatch.setattr(continuous, "_fit", noted)
    monkeypatch.setattr(continuous, "_SHORTEST_RING", 4)
    got = decoding.generate(CONFIG, _params(), prompts, LENGTH, batch_size=4)
    assert set(sizes) == {4, 8, 16, LENGTH}
    assert any(after < before for before, after in itertools.pairwise(sizes))
    for one, other in zip(got, expected, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=FP32_ATOL)


def test_samples_depend_on_prompt_and_number_only():
    prompts = _prompts(7)
    draw = functools.partial(
        decoding.stream,
        CONFIG,
        _params(),
        prompts,
        LENGTH,
        chooser=decoding.Sampler(),
        key=jax.random.key(5),
    )
    few = {(a.prompt, a.sample): a.completion.tokens for a in draw(batch_size=4, num_samples=3)}
    many = {(a.prompt, a.sample): a.completion.tokens for a in draw(batch_size=16, num_samples=3)}
    assert few.keys() == {(prompt, number) for prompt in range(7) for number in range(3)}
    assert few == many
    assert len({tuple(few[2, number]) for number in range(3)}) == 3
    with pytest.raises(ValueError, match="batch_size 4 is less than num_samples 5"):
        list(draw(batch_size=4, num_samples=5))


def test_alternatives_are_the_most_likely_tokens_of_each_position():
    prompts = _prompts(5)
    for answer in decoding.stream(CONFIG, _params(), prompts, LENGTH, batch_size=4, top_k=3):
        tokens, log_probs, _, top_ids, top_log_probs = answer.completion
        assert [ids[0] for ids in top_ids] == tokens
        np.testing.assert_allclose([row[0] for row in top_log_probs], log_probs, atol=FP32_ATOL)
        targets = np.zeros((1, LENGTH), np.int32)
        targets[0, : len(tokens)] = tokens
        logits = _forward(_pad([prompts[answer.prompt]]), targets, LENGTH)[0, : len(tokens)]
        expected, _ = jax.lax.top_k(jax.nn.log_softmax(logits), 3)
        np.testing.assert_allclose(top_log_probs, expected, atol=FP32_ATOL)


def test_no_prompts_give_no_answers():
    assert decoding.generate(CONFIG, _params(), [], LENGTH) == []


def test_bucket_length_literals():
    got = [decoding.bucket_length(n) for n in (1, 33, 64, 65, 129, 130, 193, 257, 513, 1024)]
    assert got == [32, 64, 64, 96, 160, 160, 224, 320, 640, 1024]
    lengths = np.array([decoding.bucket_length(n) for n in range(1, 1025)])
    assert (lengths >= np.arange(1, 1025)).all()
    assert len(set(lengths.tolist())) == 16


def test_an_empty_prompt_is_named():
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        decoding.generate(CONFIG, _params(), [[3], [], [4]], LENGTH)


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 0.0), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.5)]
)
def test_sampler_ranges(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*got {value}"):
        decoding.Sampler(**{field: value})


def test_most_likely_is_the_first_of_equal_logits():
    logits = jnp.array([[0.0, 2.0, 1.0, 2.0], [-3.0, -3.0, -3.0, -3.0], [-1.0, -2.0, -2.0, 5.0]])
    assert decoding.most_likely(logits, jax.random.split(jax.random.key(0), 3)).tolist() == [
        1,
        0,
        3,
    ]


def test_sampler_keeps_the_named_tokens():
    logits = jnp.log(jnp.array([[0.5, 0.2, 0.15, 0.1, 0.05]]))
    kept = {
        decoding.Sampler(): [0, 1, 2, 3, 4],
        decoding.Sampler(top_k=2): [0, 1],
        decoding.Sampler(top_p=0.6): [0, 1],
        decoding.Sampler(top_p=0.45): [0],
        decoding.Sampler(top_k=4, top_p=0.8): [0, 1, 2],
        decoding.Sampler(temperature=0.5, top_p=0.7): [0],
    }
    for sampler, tokens in kept.items():
        truncated = np.asarray(sampler.truncate(logits))[0]
        assert np.flatnonzero(np.isfinite(truncated)).tolist() == tokens, sampler


def test_sampler_draws_with_the_tempered_probabilities():
    probs = np.array([0.5, 0.3, 0.2])
    logits = jnp.log(jnp.tile(jnp.asarray(probs), (20_000, 1)))
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = decoding.Sampler(temperature=0.5)(logits, keys)
    expected = probs**2 / (probs**2).sum()
    share = np.bincount(np.asarray(drawn), minlength=3) / 20_000
    # four standard errors of a share at n = 20,000
    np.testing.assert_allclose(share, expected, atol=4 * np.sqrt(0.25 / 20_000))


def test_sampling_is_repeatable_and_scores_under_the_plain_softmax():
    inputs = _pad(_prompts(6))
    draw = functools.partial(decoding.sample, CONFIG, _params(), inputs)
    sampler = decoding.Sampler(temperature=0.7, top_k=5)
    one = draw(jax.random.key(1), LENGTH, sampler)
    same = draw(jax.random.key(1), LENGTH, sampler)
    other = draw(jax.random.key(2), LENGTH, sampler)
    np.testing.assert_array_equal(one.tokens, same.tokens)
    assert not np.array_equal(one.tokens, other.tokens)
    scores = np.asarray(jax.nn.log_softmax(_forward(inputs, np.asarray(one.tokens), LENGTH)))
    picked = np.take_along_axis(scores, np.asarray(one.tokens)[..., None], axis=-1)[..., 0]
    ended = np.cumsum(np.asarray(one.tokens) == 1, axis=1) - (np.asarray(one.tokens) == 1)
    real = ended == 0
    np.testing.assert_allclose(np.asarray(one.log_probs)[real], picked[real], atol=FP32_ATOL)
