"""The layers of encoder and decoder, and the two stacks of them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import remat, scan_with_axes
from jax import Array

from cotdistill_jax.network.attention import Attention, KeysValues
from cotdistill_jax.network.biases import BlockBiases, RelativeBias, add_over_batch, mask_bias
from cotdistill_jax.network.config import REMAT, T5Config
from cotdistill_jax.network.layers import Dense, Mlp, RmsNorm


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each on the norm of the residual stream."""

    config: T5Config

    def setup(self) -> None:
        """Declares the two blocks and their norms."""
        cfg = self.config
        self.pre_attention_layer_norm = RmsNorm(cfg.dtype)
        self.attention = Attention(cfg)
        self.pre_mlp_layer_norm = RmsNorm(cfg.dtype)
        self.mlp = Mlp(cfg)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

    def __call__(
        self, x: Array, biases: list[Array] | BlockBiases, deterministic: bool
    ) -> tuple[Array, None]:
        """Returns the residual stream [B, S, D] after this layer, and None as a scan wants it."""
        normed = self.pre_attention_layer_norm(x)
        keys_values = self.attention.keys_values(normed)
        attended = self.attention(normed, keys_values, biases, deterministic)
        x = x + self.dropout(attended, deterministic)
        transformed = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(transformed, deterministic), None


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder and feed-forward."""

    config: T5Config

    def setup(self) -> None:
        """Declares the three blocks and their norms."""
        cfg = self.config
        self.pre_self_attention_layer_norm = RmsNorm(cfg.dtype)
        self.self_attention = Attention(cfg)
        self.pre_cross_attention_layer_norm = RmsNorm(cfg.dtype)
        self.encoder_decoder_attention = Attention(cfg)
        self.pre_mlp_layer_norm = RmsNorm(cfg.dtype)
        self.mlp = Mlp(cfg)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

    def __call__(
        self,
        x: Array,
        encoded: Array,
        self_biases: list[Array] | BlockBiases,
        cross_biases: list[Array] | BlockBiases,
        deterministic: bool,
        slot: Array | None = None,
    ) -> tuple[Array, None]:
        """Returns the residual stream [B, L, D] after this layer, and None as a scan wants it.

        Args:
            x: Residual stream [B, L, D]; L is 1 when `slot` is given.
            encoded: Encoder output [B, S, D].
            self_biases: See `Attention`, for the self-attention.
            cross_biases: See `Attention`, for the attention to the encoder.
            deterministic: Whether dropout is off.
            slot: Cache slot of this token, or None to attend within `x`.
        """
        normed = self.pre_self_attention_layer_norm(x)
        attention, cross = self.self_attention, self.encoder_decoder_attention
        own = attention.keys_values(normed) if slot is None else attention.extend(normed, slot)
        x = x + self.dropout(attention(normed, own, self_biases, deterministic), deterministic)
        theirs = cross.keys_values(encoded)
        normed = self.pre_cross_attention_layer_norm(x)
        x = x + self.dropout(cross(normed, theirs, cross_biases, deterministic), deterministic)
        transformed = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(transformed, deterministic), None


def _stack(layer: type[nn.Module], config: T5Config, count: int, static: tuple[int, ...]) -> Any:
    """Returns `count` layers in a list, or in one scanned module.

    Args:
        layer: `EncoderLayer` or `DecoderLayer`.
        config: Says whether to scan and to rematerialise.
        count: Number of layers.
        static: Positions of the call's arguments that are no arrays.
    """
    kind: Any = layer
    if config.remat != "none":
        policy = REMAT[config.remat]
        kind = remat(kind, policy=policy, prevent_cse=not config.scan_layers, static_argnums=static)
    if not config.scan_layers:
        return [kind(config) for _ in range(count)]
    scanned = scan_with_axes(
        kind,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=count,
        axis_name="layers",
    )
    return scanned(config)


def _run(layers: Any, x: Array, *arguments: Any) -> Array:
    """Returns the residual stream after a stack made by `_stack`."""
    for layer in layers if isinstance(layers, list | tuple) else [layers]:
        x, _ = layer(x, *arguments)
    return x


def _self_biases(
    mask_bias: Array, relative: RelativeBias, block: int | None
) -> list[Array] | BlockBiases:
    """Returns what `Attention` takes, from a mask's bias [B, 1, L, L] and the relative positions."""
    length = mask_bias.shape[-1]
    if block is None:
        return [add_over_batch(mask_bias, relative.square(length))]
    return BlockBiases(mask_bias, relative.by_block(length, block))


class Encoder(nn.Module):
    """Stack of encoder layers."""

    config: T5Config

    def setup(self) -> None:
        """Declares the bias table, the layers and the final norm."""
        cfg = self.config
        self.relpos_bias = RelativeBias(cfg, bidirectional=True)
        self.layers = _stack(EncoderLayer, cfg, cfg.num_encoder_layers, (2,))
        self.encoder_norm = RmsNorm(cfg.dtype)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

    def __call__(
        self, embedded: Array, mask_bias: Array, deterministic: bool, block: int | None
    ) -> Array:
        """Returns the encoder output [B, S, D] of embedded tokens [B, S, D]; attends in blocks if `block` is given."""
        biases = _self_biases(mask_bias, self.relpos_bias, block)
        x = self.dropout(embedded, deterministic)
        x = _run(self.layers, x, biases, deterministic)
        return self.dropout(self.encoder_norm(x), deterministic)


class Decoder(nn.Module):
    """Stack of decoder layers, its cache and the output layer."""

    config: T5Config

    def setup(self) -> None:
        """Declares the bias table, the layers, the final norm and the output layer."""
        cfg = self.config
        self.relpos_bias = RelativeBias(cfg, bidirectional=False)
        self.layers = _stack(DecoderLayer, cfg, cfg.num_decoder_layers, (4, 5))
        self.decoder_norm = RmsNorm(cfg.dtype)
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))
        if not cfg.logits_via_embedding:
            self.logits_dense = Dense(cfg.vocab_size, ("embed", "vocab"), jnp.float32)

    def __call__(
        self,
        embedded: Array,
        encoded: Array,
        mask_bias: Array,
        cross_bias: Array,
        deterministic: bool,
        block: int | None,
    ) -> Array:
        """Returns the normed decoder output [B, L, D] of whole embedded targets [B, L, D]; attends in blocks if `block` is given."""
        biases = _self_biases(mask_bias, self.relpos_bias, block)
        cross_biases = [cross_bias] if block is None else BlockBiases(cross_bias, None)
        return self._run(embedded, encoded, biases, cross_biases, deterministic, None)

    def step(self, embedded: Array, encoded: Array, cross_bias: Array) -> Array:
        """Returns the normed output [B, 1, D] of one token [B, 1, D] and extends the cache."""
        position: Array = self.get_variable("cache", "cache_index")
        before = np.arange(self.layers[0].self_attention.cache_length()) - position
        biases = [self.relpos_bias(before)[None, :, None, :], mask_bias(before <= 0)]
        self.put_variable("cache", "cache_index", position + 1)
        return self._run(embedded, encoded, biases, [cross_bias], True, position)

    def start_cache(self, batch: int, length: int) -> None:
        """Writes an empty self-attention cache for `length` tokens.

        Raises:
            ValueError: If the layers are scanned.
        """
        for layer in self._unscanned_layers():
            layer.self_attention.store_empty(batch, length)
        self.put_variable("cache", "cache_index", jnp.zeros((), jnp.int32))

    def source_keys_values(self, encoded: Array) -> list[KeysValues]:
        """Returns the keys and values of the encoder output [B, S, D] in each layer; see `Attention.keys_values`.

        Raises:
            ValueError: If the layers are scanned.
        """
        layers = self._unscanned_layers()
        return [layer.encoder_decoder_attention.keys_values(encoded) for layer in layers]

    def _unscanned_layers(self) -> list[DecoderLayer]:
        if self.config.scan_layers:
            raise ValueError(
                "network: scanned layers do not decode; use unstack_layers(params) and a config with "
                "scan_layers=False"
            )
        layers: list[DecoderLayer] = self.layers
        return layers

    def _run(
        self,
        embedded: Array,
        encoded: Array,
        biases: list[Array] | BlockBiases,
        cross_biases: list[Array] | BlockBiases,
        deterministic: bool,
        slot: Array | None,
    ) -> Array:
        x = self.dropout(embedded, deterministic)
        x = _run(self.layers, x, encoded, biases, cross_biases, deterministic, slot)
        return self.dropout(self.decoder_norm(x), deterministic)
