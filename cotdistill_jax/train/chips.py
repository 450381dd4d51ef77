"""Published peak numbers of the accelerators that a plan is made for; each names its source.

Looked up in November 2026. Google's pages: TPU v3 (123 TFLOP/s and 32 GiB a chip of two cores), v5e (197 TFLOP/s, 16 GB, links of
1,600 Gbit/s over two axes), v6e (918 TFLOP/s, 32 GB, twice v5e's links), v5p (459 TFLOP/s, 95 GiB, links of 1,200 GB/s in both directions over three axes). NVIDIA's datasheets
were read as quoted elsewhere: A100 (312 and 156 TFLOP/s, NVLink 300 + 300 GB/s, 40 or 80 GB) and H100 SXM (989.4 and 494.7 TFLOP/s
without sparsity, NVLink 900 GB/s in both directions, 80 GB) at glennklockwood.com/garden/processors, H200 (H100's chip, 141 GB) at
aiwiki.ai/wiki/nvidia_h200; so was Google's page on TPU v4 (275 TFLOP/s, 32 GB), at glennklockwood.com/garden/tpuv4. Links of TPU v3:
the 340 TB/s that its page gives for an all-reduce over 1,024 chips are four links of 82 GB/s a chip; those of v4 were not found again.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator as JAX counts devices.

    Attributes:
      name: what people call it.
      bf16_flops: peak matrix products a second in bfloat16, without sparsity.
      float32_flops: peak for float32 arrays in JAX's default precision (bfloat16 passes on a TPU, TF32 on a GPU).
      memory_bytes: device memory.
      link_bytes: bytes a second that a device sends to others of its pod or node, one direction.
      source: where the numbers are published.
    """

    name: str
    bf16_flops: float
    float32_flops: float
    memory_bytes: float
    link_bytes: float
    source: str

    @property
    def kind(self) -> str:
        """Either "TPU" or "GPU"."""
        return "TPU" if self.name.startswith("TPU") else "GPU"

    def flops(self, dtype: Any) -> float:
        """Returns the peak of matrix products a second for a dtype or the name of one, "bfloat16" or "float32"."""
        return self.bf16_flops if jnp.dtype(dtype) == jnp.bfloat16 else self.float32_flops


# A TPU v3 chip is two devices, so its numbers are halved. A collective over one mesh axis uses the two links of a torus axis.
CHIPS = (
    Chip("TPU v3", 61.5e12, 61.5e12, 16 * GIB, 82e9, "cloud.google.com/tpu/docs/v3; links: CACM 63(7), Jouppi et al. 2020"),
    Chip("TPU v4", 275e12, 275e12, 32 * GIB, 90e9, "cloud.google.com/tpu/docs/v4; links: jax-ml.github.io/scaling-book/tpus"),
    Chip("TPU v5e", 197e12, 197e12, 16 * GIB, 90e9, "cloud.google.com/tpu/docs/v5e; links: jax-ml.github.io/scaling-book/tpus"),
    Chip("TPU v5p", 459e12, 459e12, 95 * GIB, 180e9, "cloud.google.com/tpu/docs/v5p; links: jax-ml.github.io/scaling-book/tpus"),
    Chip("TPU v6e", 918e12, 918e12, 32 * GIB, 180e9, "cloud.google.com/tpu/docs/v6e; links: jax-ml.github.io/scaling-book/tpus"),
    Chip("A100 40GB", 312e12, 156e12, 40e9, 300e9, "NVIDIA A100 datasheet, SXM: NVLink 600 GB/s in both directions"),
    Chip("A100 80GB", 312e12, 156e12, 80e9, 300e9, "NVIDIA A100 datasheet, SXM: NVLink 600 GB/s in both directions"),
    Chip("H100", 989.4e12, 494.7e12, 80e9, 450e9, "NVIDIA H100 datasheet, SXM, dense: NVLink 900 GB/s in both directions"),
    Chip("H200", 989.4e12, 494.7e12, 141e9, 450e9, "NVIDIA H200 datasheet, SXM, dense: NVLink 900 GB/s in both directions"),
)  # fmt: skip
