"""The T5X model class on toy batches; skipped where t5x is not importable, but for the message that says so."""

import functools
import os
import subprocess
import sys

import flax
import jax
import numpy as np
import optax
import pytest
import seqio

from cotdistill_jax import corpus, decoding, features, losses, network

CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
TASK = "t5x_model_test_toy"


def test_without_t5x_the_message_names_the_requirements():
    script = "import sys; sys.modules['t5x'] = None; import cotdistill_jax.t5x_model"
    failed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert failed.returncode != 0
    assert "scripts/requirements-t5x.txt" in failed.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def t5x_model():
    pytest.importorskip("t5x", reason="t5x is not installed (bash scripts/install_t5x.sh)")
    from cotdistill_jax import t5x_model

    vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()), extra_ids=0)
    seqio.TaskRegistry.add(
        TASK,
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"]),
        preprocessors=[],
        output_features=features.output_features(vocabulary),
    )
    yield t5x_model
    seqio.TaskRegistry.remove(TASK)


def _batch():
    """Four rows of six positions: two with a teacher, two without; 4, 6, 1 and 2 target tokens."""
    rng = np.random.default_rng(0)
    targets = rng.integers(2, 512, (4, 6)).astype(np.int32)
    weights = (np.arange(6) < np.array([[4], [6], [1], [2]])).astype(np.int32)
    probs = np.zeros((4, 6, 5), np.float32)
    probs[:2, :, :2] = [0.7, 0.2]
    return {
        "encoder_input_tokens": rng.integers(2, 512, (4, 8)).astype(np.int32),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
        "decoder_teacher_ids": np.tile(np.arange(5, dtype=np.int32), (4, 6, 1)),
        "decoder_teacher_probs": probs * weights[..., None],
    }


def _model(t5x_model, **options):
    return t5x_model.DistillEncDecModel(CONFIG, TASK, None, init_seed=0, **options)


def _params(model):
    shapes = {name: value.shape for name, value in _batch().items()}
    types = {name: value.dtype for name, value in _batch().items()}
    init = functools.partial(model.get_initial_variables, input_shapes=shapes, input_types=types)
    return jax.jit(init)(jax.random.key(99))["params"]


@pytest.mark.t5x
def test_loss_and_metrics_per_token(t5x_model):
    model = _model(t5x_model, token_loss=losses.distribution_matching)
    params, batch = _params(model), _batch()
    loss, metrics = model.eval_fn(params, batch)
    logits = model.module.apply({"params": params}, *list(batch.values())[:3], enable_dropout=False)
    token_loss, parts = losses.distribution_matching(logits, batch)
    real = batch["decoder_loss_weights"] > 0
    taught = real & (np.arange(4) < 2)[:, None]
    found = {
        name: float(metrics[name].compute())
        for name in metrics
        if "timing" not in name and name != "loss"
    }
    assert float(loss) == pytest.approx(float(token_loss[real].mean()), rel=1e-6)
    assert found == pytest.approx(
        {
            "nll_per_token": float(parts["nll"][real].mean()),
            "nll_per_answer_token": float(parts["nll"][real & ~taught].mean()),
            "kl_per_token": float(parts["divergence"][taught].mean()),
            "teacher_fraction": 10 / 13,
            "token_accuracy": float(parts["correct"][real].mean()),
        },
        rel=1e-5,
    )


@pytest.mark.t5x
def test_metrics_of_a_batch_without_teacher_are_finite(t5x_model):
    model = _model(t5x_model)
    _, metrics = model.eval_fn(_params(model), _batch())
    assert float(metrics["kl_per_token"].compute()) == 0.0
    assert float(metrics["teacher_fraction"].compute()) == 0.0


@pytest.mark.t5x
def test_parameters_are_those_of_the_embedded_runner(t5x_model):
    from cotdistill_jax.checkpoints import init_variables

    drawn = jax.jit(lambda: init_variables(CONFIG, jax.random.key(0))["params"])()
    jax.tree.map(
        np.testing.assert_array_equal, flax.core.unfreeze(_params(_model(t5x_model))), drawn
    )


@pytest.mark.t5x
def test_decoding_is_greedy_by_default_and_t5xs_on_request(t5x_model):
    import t5x.decoding

    model = _model(t5x_model)
    params = jax.tree.map(lambda leaf: 3 * leaf, _params(model))
    batch = _batch()
    tokens, aux = model.predict_batch_with_aux(params, batch)
    expected = decoding.greedy(CONFIG, params, batch["encoder_input_tokens"], 6)
    np.testing.assert_array_equal(tokens, expected.tokens)
    np.testing.assert_allclose(aux["scores"], expected.log_probs.sum(axis=-1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"takes no \['num_decodes'\]"):
        model.predict_batch_with_aux(params, batch, num_decodes=2)
    sampler = functools.partial(t5x.decoding.temperature_sample, temperature=0.0, topk=1)
    theirs = _model(t5x_model, decode_fn=sampler).predict_batch(
        params, batch, jax.random.PRNGKey(0)
    )
    np.testing.assert_array_equal(theirs, tokens)


@pytest.mark.t5x
def test_a_vocabulary_larger_than_the_network_is_refused(t5x_model):
    small = network.T5Config(**{**vars(CONFIG), "vocab_size": 100})
    with pytest.raises(ValueError, match="vocabulary of 512 ids, the network 100"):
        t5x_model.DistillEncDecModel(small, TASK, None)


@pytest.mark.t5x
@pytest.mark.parametrize(
    "make",
    [optax.adamw, functools.partial(optax.adafactor, min_dim_size_to_factor=8, momentum=0.9)],
)
def test_optimizer_state_has_the_axes_of_its_parameter(t5x_model, make):
    params = {"a": {"kernel": np.ones((8, 16), np.float32)}}
    spec = jax.sharding.PartitionSpec("embed", "mlp")
    optimizer = t5x_model.Optimizer([optax.clip_by_global_norm(1.0), make(1e-3)]).create(params)
    axes = optimizer.optimizer_def.derive_logical_axes(optimizer, {"a": {"kernel": spec}})
    state = jax.tree.leaves(
        (axes.state.param_states, optimizer.state.param_states),
        is_leaf=lambda leaf: leaf is None or isinstance(leaf, type(spec)),
    )
    half = len(state) // 2
    pairs = list(zip(state[:half], state[half:], strict=True))
    assert sum(axis == spec for axis, _ in pairs) >= 1
    for axis, leaf in pairs:
        assert axis == (spec if np.shape(leaf) == (8, 16) else None)


@pytest.mark.t5x
def test_subfolder(t5x_model):
    assert t5x_model.subfolder("/runs/a", "t5x_eval") == "/runs/a/t5x_eval"
    assert t5x_model.subfolder("runs/a", "t5x_eval") == f"{os.getcwd()}/runs/a/t5x_eval"
    assert t5x_model.subfolder("gs://bucket/a/", "t5x_eval") == "gs://bucket/a/t5x_eval"


def test_what_t5x_cannot_follow_is_refused_or_said(t5x_model, capsys):
    usual = {
        "scan_layers": False,
        "keep_best": 0,
        "keep_every_hours": None,
        "on_nonfinite": "stop",
        "compilation_cache_dir": None,
    }
    t5x_model.check_settings(**usual)
    assert not capsys.readouterr().out
    t5x_model.check_settings(**{**usual, "scan_layers": True})
    assert "SCAN_LAYERS = True is the embedded runner's" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"KEEP_BEST = 2 .*; ON_NONFINITE = 'skip'"):
        t5x_model.check_settings(**{**usual, "keep_best": 2, "on_nonfinite": "skip"})
