"""Batches worth a look: what was in the rows whose loss was NaN, infinite or far above the others.

incidents/step_00000812_nonfinite.json   loss, gradient norm, every example of the batch as text
incidents/step_00000812_nonfinite.npz    the batch as the model saw it
"""

import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from cotdistill_jax.teacher.shards import write_json_atomically

FOLDER = "incidents"


class Decoder(Protocol):
    """A vocabulary that turns ids into text (`seqio.Vocabulary`)."""

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids."""


def path_of(model_dir: pathlib.Path, step: int, kind: str) -> pathlib.Path:
    """Returns the path of the JSON file of an incident, `kind` being `nonfinite` or `loss_spike`."""
    return model_dir / FOLDER / f"step_{step:08}_{kind}.json"


def write(
    path: pathlib.Path,
    step: int,
    scalars: Mapping[str, float],
    batch: Mapping[str, np.ndarray],
    vocabulary: Decoder,
) -> None:
    """Writes a batch for inspection: as text to `path`, as arrays to the `.npz` beside it.

    Args:
      path: from `path_of`.
      step: the step, counted from 1, that read the batch.
      scalars: metrics of the step.
      batch: arrays [B, ...] of all rows.
      vocabulary: decodes the token ids.
    """
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path.with_suffix(".npz"), allow_pickle=False, **batch)
    content = {"step": step, "metrics": dict(scalars), "rows": rows(batch, vocabulary)}
    write_json_atomically(path, content)


def rows(batch: Mapping[str, np.ndarray], vocabulary: Decoder) -> list[list[dict[str, Any]]]:
    """Returns, per row, its examples in order as `{"inputs": text, "targets": text, "num_target_tokens": n}`.

    Args:
      batch: `encoder_input_tokens` [B, S], `decoder_target_tokens` [B, L] and, where packed, segment ids and positions.
      vocabulary: decodes the token ids.
    """
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    source = batch.get("encoder_segment_ids", (inputs > 0).astype(np.int32))
    segment = batch.get("decoder_segment_ids", (targets > 0).astype(np.int32))
    position = batch.get("decoder_positions", np.arange(targets.shape[1]) * np.ones_like(targets))
    examples = np.cumsum((position == 0) & (segment > 0), axis=1) * (segment > 0)
    return [
        [
            {
                "inputs": vocabulary.decode(
                    inputs[row][source[row] == segment[row][own][0]].tolist()
                ),
                "targets": vocabulary.decode(targets[row][own].tolist()),
                "num_target_tokens": int(own.sum()),
            }
            for own in (examples[row] == number for number in range(1, examples[row].max() + 1))
        ]
        for row in range(len(inputs))
    ]
