"""The network: T5X's tree and axes, packing, padding, cached decoding, numerics."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotdistill_jax import network

CONFIG = network.T5Config(
    vocab_size=50,
    emb_dim=32,
    num_heads=3,
    head_dim=8,
    mlp_dim=48,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


def _batch(seed: int = 0, source: int = 12, target: int = 9) -> dict[str, np.ndarray]:
    """Three rows, the second one padded on both sides."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(2, CONFIG.vocab_size, (3, source)).astype(np.int32)
    targets = rng.integers(2, CONFIG.vocab_size, (3, target)).astype(np.int32)
    inputs[1, source // 2 :] = 0
    targets[1, target // 2 :] = 0
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
    }


def _abstract(config: network.T5Config) -> dict:
    """Shapes and axes of all variables; compiles nothing."""
    init = functools.partial(network.Transformer(config).init, enable_dropout=False)
    return jax.eval_shape(init, jax.random.key(0), **_batch())


@functools.cache
def _params(config: network.T5Config = CONFIG) -> dict:
    """Seeded parameters of about the variance that the initialisers give."""
    rng = np.random.default_rng(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.standard_normal(leaf.shape, dtype=np.float32)
        return 1 + 0.1 * values if leaf.ndim == 1 else values / np.sqrt(leaf.shape[0]) / 2

    return jax.tree.map(draw, _abstract(config)["params"])


def _apply(config: network.T5Config, params: dict, batch: dict[str, np.ndarray]) -> jax.Array:
    model = network.Transformer(config)
    forward = jax.jit(lambda params: model.apply({"params": params}, **batch, enable_dropout=False))
    return forward(params)


def _expected_tree(cfg: network.T5Config) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """The table of T5X's T5 1.1 tree: name -> (shape, logical axes)."""
    width, joined, mlp = cfg.emb_dim, cfg.num_heads * cfg.head_dim, cfg.mlp_dim
    projection = {
        "query": ((width, joined), ("embed", "joined_kv")),
        "key": ((width, joined), ("embed", "joined_kv")),
        "value": ((width, joined), ("embed", "joined_kv")),
        "out": ((joined, width), ("joined_kv", "embed")),
    }
    feed_forward = {
        "wi_0": ((width, mlp), ("embed", "mlp")),
        "wi_1": ((width, mlp), ("embed", "mlp")),
        "wo": ((mlp, width), ("mlp", "embed")),
    }
    norm = ((width,), ("embed",))
    tree: dict = {"token_embedder/embedding": ((cfg.vocab_size, width), ("vocab", "embed"))}
    if not cfg.logits_via_embedding:
        tree["decoder/logits_dense/kernel"] = ((width, cfg.vocab_size), ("embed", "vocab"))
    stacks = {
        "encoder": (cfg.num_encoder_layers, {"attention": "pre_attention_layer_norm"}),
        "decoder": (
            cfg.num_decoder_layers,
            {
                "self_attention": "pre_self_attention_layer_norm",
                "encoder_decoder_attention": "pre_cross_attention_layer_norm",
            },
        ),
    }
    for stack, (layers, attentions) in stacks.items():
        bias = ((cfg.num_heads, 32), ("heads", "relpos_buckets"))
        tree[f"{stack}/relpos_bias/rel_embedding"] = bias
        tree[f"{stack}/{stack}_norm/scale"] = norm
        for layer in range(layers):
            at = f"{stack}/layers_{layer}"
            tree[f"{at}/pre_mlp_layer_norm/scale"] = norm
            tree |= {f"{at}/mlp/{name}/kernel": leaf for name, leaf in feed_forward.items()}
            for attention, norm_name in attentions.items():
                tree[f"{at}/{norm_name}/scale"] = norm
                tree |= {f"{at}/{attention}/{n}/kernel": leaf for n, leaf in projection.items()}
    return tree


@pytest.mark.parametrize("tied", [False, True])
def test_tree_has_the_names_shapes_and_axes_of_t5x(tied):
    config = dataclasses.replace(CONFIG, logits_via_embedding=tied)
    variables = _abstract(config)
    params = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    axes = flax.traverse_util.flatten_dict(variables["params_axes"], sep="/")
    got = {name: (leaf.shape, tuple(axes[f"{name}_axes"].names)) for name, leaf in params.items()}
    assert got == _expected_tree(config)
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}


def test_flan_t5_small_has_77_million_parameters():
    config = network.T5Config()
    variables = _abstract(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 76_961_152


def test_ungated_t5_1_0_has_a_single_input_projection():
    config = dataclasses.replace(CONFIG, mlp_activations=("relu",))
    mlp = _abstract(config)["params"]["encoder"]["layers_0"]["mlp"]
    assert sorted(mlp) == ["wi", "wo"]


def test_padding_does_not_change_the_logits_of_real_tokens():
    batch = _batch()
    params = _params()
    full = _apply(CONFIG, params, batch)
    source, target = 6, 4
    cut = {
        "encoder_input_tokens": batch["encoder_input_tokens"][1:2, :source],
        "decoder_input_tokens": batch["decoder_input_tokens"][1:2, :target],
        "decoder_target_tokens": batch["decoder_target_tokens"][1:2, :target],
    }
    alone = _apply(CONFIG, params, cut)
    # float32 sums in another order; logits are of order 1
    np.testing.assert_allclose(full[1, :target], alone[0], atol=3e-6)
    assert not np.allclose(full[0, :target], alone[0], atol=1e-2)


def test_packed_row_equals_its_examples_alone():
    batch = _batch(source=8, target=5)
    params = _params()
    packed = {name: rows[[0, 2]].reshape(1, -1) for name, rows in batch.items()}
    packed["encoder_segment_ids"] = np.repeat([[1, 2]], 8, axis=1)
    packed["decoder_segment_ids"] = np.repeat([[1, 2]], 5, axis=1)
    packed["encoder_positions"] = np.tile(np.arange(8), 2)[None]
    packed["decoder_positions"] = np.tile(np.arange(5), 2)[None]
    alone = _apply(CONFIG, params, batch)
    together = _apply(CONFIG, params, packed)
    np.testing.assert_allclose(together[0], alone[np.array([0, 2])].reshape(10, -1), atol=3e-6)


def test_targets_that_share_their_inputs_do_not_see_each_other():
    batch = _batch(source=8, target=5)
    params = _params()
    batch["encoder_input_tokens"][2] = batch["encoder_input_tokens"][0]
    alone = _apply(CONFIG, params, batch)
    shared = {
        name: rows[[0, 2]].reshape(1, -1) if name.startswith("decoder") else rows[:1]
        for name, rows in batch.items()
    }
    shared["encoder_segment_ids"] = np.ones((1, 8), int)
    shared["decoder_segment_ids"] = np.ones((1, 10), int)
    shared["decoder_positions"] = np.tile(np.arange(5), 2)[None]
    together = _apply(CONFIG, params, shared)
    np.testing.assert_allclose(together[0], alone[np.array([0, 2])].reshape(10, -1), atol=3e-6)


def test_decoder_is_causal():
    batch = _batch()
    params = _params()
    before = _apply(CONFIG, params, batch)
    batch["decoder_input_tokens"] = batch["decoder_input_tokens"].copy()
    batch["decoder_input_tokens"][:, 6:] = 7
    after = _apply(CONFIG, params, batch)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert not np.allclose(before[0, 6:], after[0, 6:])


def test_cached_decoding_equals_teacher_forcing():
    batch = _batch(target=9)
    batch["decoder_target_tokens"] = np.maximum(batch["decoder_target_tokens"], 2)
    params = {"params": _params()}
    model = network.Transformer(CONFIG)
    forced = model.apply(params, **batch, enable_dropout=False)
    inputs = batch["encoder_input_tokens"]
    ones = jax.tree.map(jnp.ones_like, batch)
    _, state = model.apply(params, **ones, enable_dropout=False, decode=True, mutable=["cache"])
    encoded = model.apply(params, inputs, None, False, method="encode")
    step = jax.jit(
        lambda state, token: model.apply(
            {**params, **state},
            encoded,
            inputs,
            token,
            token,
            enable_dropout=False,
            decode=True,
            max_decode_length=9,
            method="decode",
            mutable=["cache"],
        )
    )
    logits = []
    for position in range(9):
        one, state = step(state, batch["decoder_input_tokens"][:, position : position + 1])
        logits.append(one[:, 0])
    np.testing.assert_allclose(np.stack(logits, axis=1), forced, atol=3e-6)


def test_decoding_packed_rows_or_two_tokens_is_an_error():
    batch = _batch()
    params = {"params": _params()}
    model = network.Transformer(CONFIG)
    packed = batch | {"encoder_segment_ids": (batch["encoder_input_tokens"] > 0).astype(np.int32)}
    with pytest.raises(ValueError, match="got encoder_segment_ids"):
        model.apply(params, **packed, enable_dropout=False, decode=True, mutable=["cache"])
    _, state = model.apply(params, **batch, enable_dropout=False, decode=True, mutable=["cache"])
    with pytest.raises(ValueError, match=r"takes tokens \[B, 1\], got \(3, 9\)"):
        model.apply(
            {**params, **state}, **batch, enable_dropout=False, decode=True, mutable=["cache"]
        )


def test_dropout_needs_its_rng_and_changes_the_logits():
    config = dataclasses.replace(CONFIG, dropout_rate=0.5)
    batch = _batch()
    params = {"params": _params(config)}
    model = network.Transformer(config)
    quiet = _apply(config, params["params"], batch)
    drop = jax.jit(lambda key: model.apply(params, **batch, rngs={"dropout": key}))
    one, same, other = (drop(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other) and not np.allclose(one, quiet)


def test_bfloat16_keeps_logits_and_parameters_in_float32():
    batch = _batch()
    params = _params()
    exact = _apply(CONFIG, params, batch)
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    rounded = _apply(half, params, batch)
    assert rounded.dtype == jnp.float32
    # bfloat16 has 8 bits of mantissa (relative 4e-3); logits are of order 1, errors add over 4 layers
    np.testing.assert_allclose(rounded, exact, atol=0.06)
    assert not np.array_equal(rounded, exact)


def test_bfloat16_survives_activations_beyond_the_float16_range():
    batch = _batch()
    params = jax.tree.map(lambda leaf: leaf, _params())
    for name in ("layers_0", "layers_1"):
        kernel = params["encoder"][name]["mlp"]["wo"]["kernel"]
        params["encoder"][name]["mlp"]["wo"]["kernel"] = kernel * 1e6
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    model = network.Transformer(half)
    embedded, state = model.apply(
        {"params": params},
        batch["encoder_input_tokens"],
        None,
        False,
        method="encode",
        capture_intermediates=lambda module, _: isinstance(module, network.EncoderLayer),
    )
    stream = state["intermediates"]["encoder"]["layers_1"]["__call__"][0][0]
    assert float(jnp.abs(stream).max()) > float(jnp.finfo(jnp.float16).max)
    assert bool(jnp.isfinite(embedded).all())
    assert bool(jnp.isfinite(_apply(half, params, batch)).all())


def _loss_and_gradients(config: network.T5Config, params: dict, batch: dict[str, np.ndarray]):
    def loss(params):
        logits = network.Transformer(config).apply(
            {"params": params}, **batch, enable_dropout=False
        )
        real = batch["decoder_target_tokens"] > 0
        return (jax.nn.logsumexp(logits, axis=-1) * real).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


@functools.cache
def _plain_loss_and_gradients():
    return _loss_and_gradients(CONFIG, _params(), _batch())


@pytest.mark.parametrize(
    ("scan_layers", "remat"), [(False, "full"), (True, "none"), (True, "dots")]
)
def test_scanned_and_rematerialised_forms_compute_the_same(scan_layers, remat):
    batch = _batch()
    params = _params()
    loss, gradients = _plain_loss_and_gradients()
    config = dataclasses.replace(CONFIG, scan_layers=scan_layers, remat=remat)
    converted = network.stack_layers(params) if scan_layers else params
    got_loss, got = _loss_and_gradients(config, converted, batch)
    got = network.unstack_layers(got) if scan_layers else got
    np.testing.assert_allclose(got_loss, loss, rtol=1e-6)
    # float32 sums in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4), got, gradients)


def test_stacking_is_exact_both_ways_and_gives_the_scanned_tree_with_its_axes():
    config = dataclasses.replace(CONFIG, scan_layers=True)
    variables = _abstract(config)
    params = _params()
    stacked = network.stack_layers(params)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, variables["params"])
    kernel = stacked["encoder"]["layers"]["mlp"]["wo"]["kernel"]
    assert kernel.shape == (2, 48, 32)
    axes = variables["params_axes"]["encoder"]["layers"]["mlp"]["wo"]["kernel_axes"]
    assert tuple(axes.names) == ("layers", "mlp", "embed")
    again = network.unstack_layers(stacked)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_scanned_layers_refuse_to_decode():
    config = dataclasses.replace(CONFIG, scan_layers=True)
    params = {"params": network.stack_layers(_params())}
    apply = functools.partial(network.Transformer(config).apply, params)
    with pytest.raises(ValueError, match="scanned layers do not decode; use unstack_layers"):
        apply(_batch()["encoder_input_tokens"], method="source_keys_values")
    with pytest.raises(ValueError, match="scanned layers do not decode; use unstack_layers"):
        apply(**_batch(), enable_dropout=False, decode=True, mutable=["cache"])
