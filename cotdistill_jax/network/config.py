"""The dimensions and numerics of one network, and the functions that they name."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "linear": lambda x: x,
}
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": None,
}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Dimensions and numerics of one network; the defaults are FlanT5-small's.

    Attributes:
        vocab_size: V, rows of the embedding and width of the logits.
        emb_dim: D, width of the residual stream.
        num_heads: H, attention heads.
        head_dim: Width of one head; `num_heads * head_dim` need not equal `emb_dim`.
        mlp_dim: Hidden width of the feed-forward blocks.
        num_encoder_layers: Layers of the encoder.
        num_decoder_layers: Layers of the decoder.
        dropout_rate: In [0, 1); used only where `enable_dropout` is true.
        dtype: Type of activations ("float32" or "bfloat16"); parameters are always float32.
        mlp_activations: One name per input projection of the feed-forward block; their outputs are
            multiplied. ("gelu", "linear") is T5 1.1, ("relu",) is T5 1.0.
        logits_via_embedding: Whether the output layer is the embedding (T5 1.0) or its own matrix.
        relative_buckets: Buckets of the relative position bias.
        relative_max_distance: Distance from which on all positions share the last bucket.
        scan_layers: Whether the layers of a stack are one loop over stacked parameters: compiles
            faster, for training only; `stack_layers` and `unstack_layers` convert the parameters.
        remat: What is computed again in the backward pass to save memory: "none", "dots" (all but
            matrix products with weights) or "full" (everything inside a layer).
        attention_block: Positions of a block, where attention within packed rows skips blocks that are all masked
            (`block_attention`); None: it computes all scores.
    """

    vocab_size: int = 32128
    emb_dim: int = 512
    num_heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1024
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    relative_buckets: int = 32
    relative_max_distance: int = 128
    scan_layers: bool = False
    remat: str = "none"
    attention_block: int | None = None

    def __post_init__(self) -> None:
        """Checks the names of activations and of the rematerialisation, and what does not go together."""
        unknown = sorted(set(self.mlp_activations) - set(ACTIVATIONS))
        if unknown:
            raise ValueError(
                f"network: unknown mlp_activations {unknown}; allowed are {sorted(ACTIVATIONS)}"
            )
        if self.remat not in REMAT:
            raise ValueError(f"network: unknown remat {self.remat!r}; allowed are {list(REMAT)}")
        if self.attention_block is not None and self.dropout_rate > 0:
            raise ValueError(
                f"network: attention in blocks of {self.attention_block} knows no dropout, got dropout_rate = "
                f"{self.dropout_rate}; set it to 0 or attention_block to None"
            )
