"""The whole network with T5X's call interface."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from cotdistill_jax.network.attention import KeysValues
from cotdistill_jax.network.biases import attention_mask, mask_bias
from cotdistill_jax.network.config import T5Config
from cotdistill_jax.network.layers import Embedding
from cotdistill_jax.network.stacks import Decoder, Encoder


class Transformer(nn.Module):
    """FlanT5 encoder-decoder with T5X's call interface."""

    config: T5Config

    def setup(self) -> None:
        """Declares the shared embedding and both stacks."""
        self.token_embedder = Embedding(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(
        self,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        encoder_positions: Array | None = None,
        decoder_positions: Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> Array:
        """Returns float32 logits [B, L, V] of every target position.

        Args:
            encoder_input_tokens: int [B, S], 0 is padding.
            decoder_input_tokens: int [B, L], the targets shifted right.
            decoder_target_tokens: int [B, L], 0 is padding.
            encoder_segment_ids: int [B, S] of packed rows, 0 is padding.
            decoder_segment_ids: int [B, L] of packed rows, 0 is padding.
            encoder_positions: Accepted for T5X; only differences of positions matter here.
            decoder_positions: int [B, L] of packed rows, 0 where an example begins.
            enable_dropout: Whether dropout is on; needs the RNG "dropout".
            decode: Whether to use the cache, see `decode`.
        """
        encoded = self.encode(encoder_input_tokens, encoder_segment_ids, enable_dropout)
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout,
            decode,
        )

    def encode(
        self,
        encoder_input_tokens: Array,
        encoder_segment_ids: Array | None = None,
        enable_dropout: bool = True,
    ) -> Array:
        """Returns the encoder output [B, S, D]; arguments as in `__call__`."""
        real = encoder_input_tokens > 0
        mask = attention_mask(real, encoder_segment_ids, encoder_segment_ids)
        embedded = self.token_embedder(encoder_input_tokens)
        block = self._block(encoder_segment_ids)
        return self.encoder(embedded, mask_bias(mask), not enable_dropout, block)

    def decode(
        self,
        encoded: Array,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        decoder_positions: Array | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
    ) -> Array:
        """Returns float32 logits [B, L, V].

        With `decode=True` and no cache, an empty one of L positions is made in the collection "cache"
        (T5X's first call); with a cache, L is 1 and the token is appended to it.

        Args:
            encoded: Encoder output [B, S, D].
            encoder_input_tokens: int [B, S], for the padding mask.
            decoder_input_tokens: int [B, L].
            decoder_target_tokens: int [B, L], for the padding mask.
            encoder_segment_ids: As in `__call__`; not allowed with `decode=True`.
            decoder_segment_ids: As in `__call__`; not allowed with `decode=True`.
            decoder_positions: As in `__call__`; not read with `decode=True`.
            enable_dropout: Whether dropout is on; always off in a step of cached decoding.
            decode: Whether to use the cache.
            max_decode_length: Accepted for T5X; the cache knows its own length.

        Raises:
            ValueError: If packed rows are to be decoded, or a step gets more than one token.
        """
        stepping = decode and self.decoder.has_variable("cache", "cache_index")
        if decode and encoder_segment_ids is not None:
            raise ValueError("network: decode=True got encoder_segment_ids; decode unpacked rows")
        if decode and not stepping:
            self.decoder.start_cache(*decoder_input_tokens.shape)
        if stepping:
            if decoder_input_tokens.shape[1] != 1:
                got = decoder_input_tokens.shape
                raise ValueError(f"network: a decoding step takes tokens [B, 1], got {got}")
            cross_bias = mask_bias(attention_mask(encoder_input_tokens > 0))
            embedded = self.token_embedder(decoder_input_tokens)
            return self.logits(self.decoder.step(embedded, encoded, cross_bias))
        hidden = self.decode_hidden(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout,
        )
        return self.logits(hidden)

    def decode_hidden(
        self,
        encoded: Array,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        decoder_positions: Array | None = None,
        enable_dropout: bool = True,
    ) -> Array:
        """Returns the decoder output [B, L, D] that `logits` maps to the vocabulary.

        Losses that work in chunks of the sequence call this, so that [B, L, V] never exists.
        Arguments as in `decode`. A target attends to the encoder's segment of the same id. Examples
        that share their inputs have an id in common, so a target's own past ends where its segment
        begins and, within a segment, where `decoder_positions` is 0.
        """
        length = decoder_target_tokens.shape[1]
        causal = np.tril(np.ones((length, length), bool))[None, None]
        real = decoder_target_tokens > 0
        own = causal & attention_mask(real, decoder_segment_ids, decoder_segment_ids)
        if decoder_positions is not None:
            example = jnp.cumsum(decoder_positions == 0, axis=-1)
            own = own & attention_mask(real, example, example)
        source = encoder_input_tokens > 0
        cross = attention_mask(source, decoder_segment_ids, encoder_segment_ids)
        embedded = self.token_embedder(decoder_input_tokens)
        masks = (mask_bias(own), mask_bias(cross))
        block = self._block(encoder_segment_ids)
        return self.decoder(embedded, encoded, *masks, not enable_dropout, block)

    def _block(self, segment_ids: Array | None) -> int | None:
        """Returns the positions of a block of attention; None for rows that are not packed."""
        return None if segment_ids is None else self.config.attention_block

    def logits(self, hidden: Array) -> Array:
        """Returns float32 logits [..., V] of the decoder output [..., D]."""
        if self.config.logits_via_embedding:
            return self.token_embedder.attend(hidden)
        return self.decoder.logits_dense(hidden)

    def source_keys_values(self, encoder_input_tokens: Array) -> list[KeysValues]:
        """Returns the keys and values [B, H, S, head_dim] of the encoded source in each decoder layer.

        Args:
            encoder_input_tokens: int [B, S], 0 is padding.

        Raises:
            ValueError: If the layers are scanned.
        """
        encoded = self.encode(encoder_input_tokens, enable_dropout=False)
        return self.decoder.source_keys_values(encoded)
