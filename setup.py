"""Installs the packages `cotdistill_jax` and `tasks`, and inside the former the folders `gin` and `scripts`.

The top-level folder `gin` cannot be installed as it is: that name is gin-config's. Installed, it is `cotdistill_jax/gin`, and
`cotdistill_jax.gin_search_path()` finds it in a checkout, too. A script is `python -m cotdistill_jax.scripts.NAME`.
"""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "cotdistill_jax" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

INSTALL_REQUIRES = [
    "absl-py>=2.1",
    "clu>=0.0.12",
    "flax>=0.12,<0.13",
    "gin-config>=0.5.0",
    "google-cloud-storage>=3",  # Orbax asks it about every gs:// path
    "huggingface_hub>=1.0",
    "importlib_resources>=6",  # tensorflow-datasets imports it without asking for it on some versions
    "jax>=0.10.2,<0.13",  # 0.10.2 is the last for Python 3.11
    "jinja2>=3.1",
    "matplotlib>=3.10",
    "ml_dtypes>=0.5",
    "msgpack>=1.1",
    "numba>=0.61",
    "numpy>=2.0",
    "openai>=3.54",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12,<0.13",
    "pyarrow>=17",
    "rich>=14",
    "safetensors>=0.4",
    "sentencepiece>=0.2.1",
    "seqio>=0.0.20",  # brings TensorFlow; never add the PyPI package `t5`: it overwrites SeqIO's files
    "tenacity>=9",
    "tensorflow-datasets>=4.9.10",
    "tensorboard>=2.20",
    "tensorstore>=0.1.71",
    "tqdm>=4.66",
    "transformers>=5.0",
]

EXTRAS = {
    "dev": [
        "hypothesis>=6.100",
        "ipykernel>=7",
        "mypy>=1.15",
        "nbclient>=0.11",
        "nbformat>=5.11",
        "playwright>=1.65",  # the tests marked `browser`; without a browser they say that they were skipped
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "rapidfuzz>=3.10",
        "ruff>=0.12",
    ],
    # The part of T5X's needs that is on PyPI; scripts/requirements-t5x.txt holds the rest.
    "t5x": ["cached-property>=2.0.1", "fiddle>=0.3.1", "grain>=0.2.18"],
    # Also what the command `tfds build` asks for.
    "beam": ["apache-beam>=2.77", "google-crc32c>=1.5", "mlcroissant>=1.0", "sentencepiece<0.2.3"],
    # JAX for NVIDIA GPUs and for TPU VMs; without them it computes on CPUs.
    "cuda": ["jax[cuda12]>=0.10.2,<0.13"],
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "parity": ["torch>=2.6"],
    "wandb": ["wandb>=0.19"],
}

setuptools.setup(
    name="cotdistill_jax",
    version=VERSION,
    description="Distil chain-of-thought reasoning into FlanT5 on JAX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=[
        *setuptools.find_packages(include=["cotdistill_jax", "cotdistill_jax.*", "tasks"]),
        "cotdistill_jax.gin",
        "cotdistill_jax.scripts",
    ],
    package_dir={"cotdistill_jax.gin": "gin", "cotdistill_jax.scripts": "scripts"},
    package_data={
        "cotdistill_jax": ["**/*.model", "**/*.json", "**/*.txt", "report/templates/*"],
        "cotdistill_jax.gin": ["**/*.gin"],
    },
    python_requires=">=3.11",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
)
