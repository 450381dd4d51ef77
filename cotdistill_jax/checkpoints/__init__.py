"""Checkpoints: of a run, of its model alone, and to and from other worlds.

| file | holds |
|---|---|
| `train_state.py` | `TrainCheckpoints`: Orbax, T5X's layout, data position included |
| `model_files.py` | `load_model`: a run folder -> network, parameters, vocabulary |
| `huggingface.py` | safetensors of Hugging Face T5 <-> our parameter tree |
| `t5x_legacy.py` | T5X checkpoints of either layout; its own is a msgpack index and zarr arrays |
| `orbax_layout.py` | the Orbax layout, read and written one tensor at a time |
| `stored.py` | arrays that stay on disk or in a bucket until they are asked for |
| `placement.py` | from there to the devices that hold them, each process its part |
| `hub.py` | names of published weights, such as google/flan-t5-base -> files on this machine |
| `initial.py` | weights that a new run starts from |
| `conversion.py` | from any of these worlds to any other, tensor by tensor |
"""

from cotdistill_jax.checkpoints.model_files import (
    Model,
    load_model,
    read_model_files,
    write_model_files,
)
from cotdistill_jax.checkpoints.train_state import (
    TrainCheckpoints,
    TrainState,
    abstract_variables,
    check_keep_every_steps,
    init_variables,
    list_steps,
    locate,
    read_params,
)

__all__ = [
    "Model",
    "TrainCheckpoints",
    "TrainState",
    "abstract_variables",
    "check_keep_every_steps",
    "init_variables",
    "list_steps",
    "load_model",
    "locate",
    "read_model_files",
    "read_params",
    "write_model_files",
]
