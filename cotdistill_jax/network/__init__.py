"""FlanT5 (T5 1.1) as a Flax Linen module with T5X's parameter tree.

The parameter names, shapes and logical axes are those of T5X's T5 1.1 network, so that public
FlanT5 checkpoints load without a mapping, and the call interface is the one T5X's model classes use.

Numerics: pre-norm blocks with RMS norm, unscaled dot-product attention (1/sqrt(head_dim) lives in the
query initialiser), bucketed relative position bias shared by all layers of a stack, gated tanh-GELU,
no biases. Norms, softmax and logits are float32 whatever `T5Config.dtype` is. Positions enter only
through differences, so rows packed with segment ids need no position ids.

Axes: B batch, S source length, L target length, V vocabulary, D width (`emb_dim`), H heads.

Sources: Raffel et al. 2020 (arXiv 1910.10683); Shazeer 2020 (arXiv 2002.05202); parameter tree of
google-research/t5x, t5x/examples/t5/network.py at commit cc342d4.

| file | holds |
|---|---|
| `config.py` | `T5Config` |
| `drawing.py` | the parameters that a network begins with |
| `layers.py` | embedding, linear map, norm, feed-forward block |
| `biases.py` | relative positions and masks, added to the scores of an attention |
| `attention.py` | multi-head attention and its cache |
| `block_attention.py` | attention in packed rows that skips what is masked |
| `stacks.py` | `EncoderLayer`, `DecoderLayer`, the two stacks |
| `transformer.py` | `Transformer`: the network with T5X's call interface |
| `stacking.py` | `stack_layers`, `unstack_layers`: parameters of the scanned form |
"""

from cotdistill_jax.network.biases import relative_buckets
from cotdistill_jax.network.config import T5Config
from cotdistill_jax.network.stacking import stack_layers, unstack_layers
from cotdistill_jax.network.stacks import DecoderLayer, EncoderLayer
from cotdistill_jax.network.transformer import Transformer

__all__ = [
    "DecoderLayer",
    "EncoderLayer",
    "T5Config",
    "Transformer",
    "relative_buckets",
    "stack_layers",
    "unstack_layers",
]
