"""The loss of every target token, from logits.

All losses have the same form, so that the train step and the T5X model can call any:

    loss_fn(logits [B, L, V], batch) -> (token_loss [B, L], parts)

and are bound to their options by gin or `functools.partial`. Everything is computed in float32
whatever the logits' dtype. Padding is not treated here: every position gets a loss and the caller
weights it (`decoder_loss_weights`); padded positions have finite losses and gradients.

Keys read from `batch`:

| key                     | dtype   | shape     |                                                |
|-------------------------|---------|-----------|------------------------------------------------|
| `decoder_target_tokens` | int32   | [B, L]    |                                                |
| `decoder_teacher_ids`   | int32   | [B, L, K] | distribution matching; distinct where prob > 0 |
| `decoder_teacher_probs` | float32 | [B, L, K] | distribution matching; 0 in unused, sum <= 1   |
| `decoder_targets_negative` | int32 | [B, L]   | unlikelihood; 1 where the target is wrong       |

`parts` holds float32 [B, L] arrays for metrics, none of them weighted:

| key            | content                                                             |
|----------------|---------------------------------------------------------------------|
| `nll`          | -log q(target token)                                                |
| `divergence`   | divergence from the teacher, 0 where the row has no teacher         |
| `has_teacher`  | 1 where the row has a teacher, else 0                               |
| `z_loss`       | the z-loss inside the token's loss                                  |
| `correct`      | 1 where the target token has the highest logit, else 0              |
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

from cotdistill_jax.losses import tail_rules
from cotdistill_jax.losses.divergences import DIVERGENCES, Divergence
from cotdistill_jax.losses.tail_rules import TAIL_RULES, Candidates, TailRule

Batch = Mapping[str, Array]
Parts = dict[str, Array]
LossFn = Callable[[Array, Batch], tuple[Array, Parts]]

NEGATIVE_KEY = "decoder_targets_negative"
_UNLIKELIHOOD_EPSILON = 1e-5


def sample_matching(logits: Array, batch: Batch, *, z_loss: float = 0.0) -> tuple[Array, Parts]:
    r"""Returns the negative log-likelihood of every target token, and its parts.

    $$ \ell = \log \sum_v e^{z_v} - z_{target} + c \, (\log \sum_v e^{z_v})^2 $$

    Args:
        logits: [B, L, V], any float dtype; z above.
        batch: See the module docstring; teacher features are ignored.
        z_loss: c >= 0, weight of the squared log-normaliser (1e-4 in T5X's pretraining).

    Example: logits [[[0.0, 0.0]]], target [[1]]: token loss [[0.6931472]].
    """
    logits, log_z = _normaliser(logits)
    parts = _likelihood_parts(logits, log_z, batch, z_loss)
    parts["divergence"] = jnp.zeros_like(log_z)
    parts["has_teacher"] = jnp.zeros_like(log_z)
    return parts["nll"] + parts["z_loss"], parts


def distribution_matching(
    logits: Array,
    batch: Batch,
    *,
    divergence: str = "forward_kl",
    tail_rule: str = "drop",
    temperature: float = 1.0,
    nll_weight: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Array, Parts]:
    r"""Returns the divergence from the teacher's top k for every target token, and its parts.

    $$ \ell = (1 - w) \, T^2 D(p^{(T)}, q^{(T)}) + w \cdot NLL + c \, (\log \sum_v e^{z_v})^2 $$

    where the row has a teacher (any p > 0), and NLL + z-loss where it has none. $q^{(T)}$
    is softmax(z / T); $p^{(T)}_k \propto p_k^{1/T}$ with the row's mass kept. D and the treatment
    of the mass outside the top k are named by `divergence` and `tail_rule`. With `drop` the teacher's
    probabilities do not add up to one and a loss slightly below zero is right (see
    `divergences.py`).

    Args:
        logits: [B, L, V], any float dtype; z above.
        batch: See the module docstring.
        divergence: A name in `DIVERGENCES`.
        tail_rule: A name in `TAIL_RULES`.
        temperature: T > 0, for teacher and student alike.
        nll_weight: w in [0, 1], share of the NLL in rows with a teacher.
        z_loss: c >= 0.

    Raises:
        ValueError: For an unknown name, an option out of range, `reverse_kl` with a rule under
            which the teacher has outcomes of probability 0 (it would be infinite), a batch without
            teacher features, or teacher features of a wrong shape.

    Example: logits [[[0.0, 0.0]]], ids [[[0, 1]]], probs [[[0.75, 0.25]]]: token loss [[0.130812]].

    Source: Fu et al. 2023 (arXiv 2301.12726), section 3, for forward KL with `drop`; Hinton et al.
    2015 for the temperature.
    """
    measure, rule = _choose(divergence, tail_rule)
    if not temperature > 0 or not 0 <= nll_weight <= 1:
        raise ValueError(
            f"losses: temperature must be > 0 and nll_weight in [0, 1], got temperature {temperature} and "
            f"nll_weight {nll_weight}"
        )
    _check_teacher(logits, batch)
    logits, log_z = _normaliser(logits)
    parts = _likelihood_parts(logits, log_z, batch, z_loss)
    has_teacher = jnp.any(batch["decoder_teacher_probs"] > 0, axis=-1)
    matched = temperature**2 * rule(measure, _candidates(logits, log_z, batch, temperature))
    parts["divergence"] = jnp.where(has_teacher, matched, 0.0)
    parts["has_teacher"] = has_teacher.astype(jnp.float32)
    mixed = (1 - nll_weight) * matched + nll_weight * parts["nll"] if nll_weight else matched
    return jnp.where(has_teacher, mixed, parts["nll"]) + parts["z_loss"], parts


def unlikelihood(
    logits: Array,
    batch: Batch,
    *,
    positive: LossFn = sample_matching,
    negative_weight: float = 1.0,
) -> tuple[Array, Parts]:
    r"""Returns another loss for right targets, and for wrong ones how likely the student finds them.

    $$ \ell = -c \log(1 - q(target) + 10^{-5}) $$

    where `decoder_targets_negative` is 1.

    Args:
        logits: [B, L, V], any float dtype.
        batch: See the module docstring.
        positive: The loss of right targets, options bound.
        negative_weight: c >= 0.

    Raises:
        ValueError: For a batch that does not say which targets are wrong.

    Example: logits [[[0.0, 0.0]]], target [[1]], which is wrong: token loss [[0.693127]].

    Source: Welleck et al. 2019 (arXiv 1908.04319); the constant and its use for wrong rationales are the original's
    (train_distill_simple.py, which leaves it switched off).
    """
    if NEGATIVE_KEY not in batch:
        raise ValueError(
            f"losses: unlikelihood needs {NEGATIVE_KEY}, the batch has {sorted(batch)}. Train on a mixture with wrong "
            "rationales (seed_seed_3b_contrastive_v2), or use another loss."
        )
    others = {name: value for name, value in batch.items() if name != NEGATIVE_KEY}
    token_loss, parts = positive(logits, others)
    wrong = batch[NEGATIVE_KEY] > 0
    # 1 - q as expm1, which stays exact where q is nearly 1.
    of_wrong = -negative_weight * jnp.log(-jnp.expm1(-parts["nll"]) + _UNLIKELIHOOD_EPSILON)
    return jnp.where(wrong, of_wrong, token_loss), parts


def _choose(divergence: str, tail_rule: str) -> tuple[Divergence, TailRule]:
    """Returns the named divergence and rule; raises if unknown or infinite together."""
    if divergence not in DIVERGENCES:
        raise ValueError(
            f"losses: unknown divergence {divergence!r}; the divergences are {', '.join(DIVERGENCES)}"
        )
    if tail_rule not in TAIL_RULES:
        raise ValueError(
            f"losses: unknown tail rule {tail_rule!r}; the rules are {', '.join(TAIL_RULES)}"
        )
    absent = tail_rules.RULES_WITH_ABSENT_OUTCOMES
    if DIVERGENCES[divergence].absent is None and tail_rule in absent:
        usable = [rule for rule in TAIL_RULES if rule not in absent]
        raise ValueError(
            f"losses: {divergence} is infinite with tail rule {tail_rule}, which gives tokens outside the "
            f"top k the probability 0. Use one of {', '.join(usable)}."
        )
    return DIVERGENCES[divergence], TAIL_RULES[tail_rule]


def _check_teacher(logits: Array, batch: Batch) -> None:
    """Raises unless the batch has teacher features that fit the logits."""
    keys = ("decoder_teacher_ids", "decoder_teacher_probs")
    missing = [key for key in keys if key not in batch]
    if missing:
        raise ValueError(
            f"losses: distribution_matching needs {missing}, the batch has {sorted(batch)}. Train on a "
            "corpus with a teacher and name its teacher features in the feature lengths, or use "
            "sample_matching."
        )
    ids, probs = (batch[key] for key in keys)
    if ids.shape != probs.shape or ids.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"losses: decoder_teacher_ids {ids.shape}, decoder_teacher_probs {probs.shape} and logits "
            f"{logits.shape} do not fit; expected [B, L, K], [B, L, K] and [B, L, V]"
        )


def _normaliser(logits: Array) -> tuple[Array, Array]:
    """Returns the logits in float32 and their log-sum-exp, [B, L]."""
    logits = logits.astype(jnp.float32)
    return logits, jax.nn.logsumexp(logits, axis=-1)


def _likelihood_parts(logits: Array, log_z: Array, batch: Batch, z_loss: float) -> Parts:
    """Returns the parts that need no teacher; raises for wrong targets, which only `unlikelihood` knows as such."""
    if NEGATIVE_KEY in batch:
        raise ValueError(
            f"losses: the batch has {NEGATIVE_KEY}, so some targets are wrong rationales, which this loss would teach. Use "
            "losses.unlikelihood (gin/losses/unlikelihood.gin), or a mixture without them."
        )
    target_logit = _pick(logits, batch["decoder_target_tokens"][..., None])[..., 0]
    return {
        "nll": log_z - target_logit,
        "z_loss": z_loss * jnp.square(log_z),
        # Equal to argmax == target but for exact ties, and shares the maximum with the normaliser.
        "correct": (target_logit >= jnp.max(logits, axis=-1)).astype(jnp.float32),
    }


def _candidates(logits: Array, log_z: Array, batch: Batch, temperature: float) -> Candidates:
    """Returns the candidates with the student's log-probabilities, both at `temperature`."""
    ids, probs = batch["decoder_teacher_ids"], batch["decoder_teacher_probs"].astype(jnp.float32)
    used = probs > 0
    if temperature != 1.0:
        logits, log_z = _normaliser(logits / temperature)
        probs = _soften(probs, temperature)
    return Candidates(
        probs=probs,
        ids=jnp.where(used, ids, -1),
        log_q=_pick(logits, jnp.where(used, ids, 0)) - log_z[..., None],
        log_q_all=logits - log_z[..., None],
    )


def _soften(probs: Array, temperature: float) -> Array:
    """Returns `probs` to the power 1 / temperature, each row scaled to the mass it had."""
    mass = jnp.sum(probs, axis=-1, keepdims=True)
    highest = jnp.max(probs, axis=-1, keepdims=True)
    relative = probs / jnp.where(highest > 0, highest, 1.0)
    softened = jnp.where(probs > 0, jnp.power(relative, 1 / temperature), 0.0)
    total = jnp.sum(softened, axis=-1, keepdims=True)
    return softened * (mass / jnp.where(total > 0, total, 1.0))


def _pick(logits: Array, ids: Array) -> Array:
    """Returns logits[.., ids[.., k]], [.., K].

    A gather: with the vocabulary sharded, XLA turns it into a masked local gather and a sum
    of [.., K]. An id outside the vocabulary gives NaN, which stops the run, not another's logit.
    """
    return jnp.take_along_axis(logits, ids, axis=-1, mode="fill")
