"""Published peak numbers of the accelerators that a plan is made for; each names its source.

Checked in November 2026 against docs.cloud.google.com/tpu/docs/v5p-training (459 TFLOP/s, 95 GiB, links of 1,200 GB/s in both
directions over three axes), cloud.google.com/tpu/docs/v5e (197 TFLOP/s, 16 GB, links of 1,600 Gbit/s over two axes), for the
A100 glennklockwood.com/garden/processors/A100, which cites NVIDIA's datasheet (312 and 156 TFLOP/s, NVLink 300 + 300 GB/s), and for
TPU v4 glennklockwood.com/garden/tpuv4, which cites Google's page (275 TFLOP/s, 32 GB). NVLink and memory of H100 and H200:
acecloud.ai/blog/nvidia-b200-vs-h200-h100-a100 (900 GB/s in both directions, 80 and 141 GB). Not found again there: TPU v3, the peaks
of H100 and H200; these are from the sources in the table.
"""

import dataclasses

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


# A TPU v3 chip is two devices, so its numbers are halved. A collective over one mesh axis uses the two links of a torus axis.
CHIPS = (
    Chip("TPU v3", 61.5e12, 61.5e12, 16 * GIB, 82e9, "cloud.google.com/tpu/docs/v3; links: CACM 63(7), Jouppi et al. 2020"),
    Chip("TPU v4", 275e12, 275e12, 32 * GIB, 90e9, "cloud.google.com/tpu/docs/v4; links: jax-ml.github.io/scaling-book/tpus"),
    Chip("TPU v5e", 197e12, 197e12, 16 * GIB, 90e9, "cloud.google.com/tpu/docs/v5e; links: jax-ml.github.io/scaling-book/tpus"),
    Chip("TPU v5p", 459e12, 459e12, 95 * GIB, 180e9, "cloud.google.com/tpu/docs/v5p; links: jax-ml.github.io/scaling-book/tpus"),
    Chip("A100 80GB", 312e12, 156e12, 80e9, 300e9, "NVIDIA A100 datasheet, SXM: NVLink 600 GB/s in both directions"),
    Chip("H100", 989e12, 494.5e12, 80e9, 450e9, "NVIDIA H100 datasheet, SXM, dense: NVLink 900 GB/s in both directions"),
    Chip("H200", 989e12, 494.5e12, 141e9, 450e9, "NVIDIA H200 datasheet, SXM, dense: NVLink 900 GB/s in both directions"),
)  # fmt: skip
