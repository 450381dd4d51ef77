"""Batches worth a look: what was in the rows whose loss was NaN, infinite or far above the others.

incidents/step_00000812_nonfinite.json   loss, gradient norm, every example of the batch as text, with its ids
incidents/step_00000812_nonfinite.npz    the batch as the model saw it
"""

import collections
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from cotdistill_jax import files
from cotdistill_jax.train import data

FOLDER = "incidents"


def path_of(model_dir: files.Path, step: int, kind: str) -> files.Path:
    """Returns the path of the JSON file of an incident, `kind` being `nonfinite` or `loss_spike`."""
    return model_dir / FOLDER / f"step_{step:08}_{kind}.json"


def write(
    path: files.Path,
    step: int,
    scalars: Mapping[str, float],
    batch: Mapping[str, np.ndarray],
    mixture_or_task_name: str,
) -> None:
    """Writes a batch for inspection: as text to `path`, as arrays to the `.npz` beside it.

    The text is written first without ids, which take a pass over the training data.

    Args:
      path: from `path_of`.
      step: the step, counted from 1, that read the batch.
      scalars: metrics of the step.
      batch: arrays [B, ...] of all rows.
      mixture_or_task_name: what the batch was read from.
    """
    path.parent.mkdir(exist_ok=True)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, allow_pickle=False, **batch)
    files.write_atomically(path.with_suffix(".npz"), arrays.getvalue())
    found = rows(batch, data.vocabulary(mixture_or_task_name))
    content = {"step": step, "metrics": dict(scalars), "rows": found}
    files.write_json_atomically(path, content)
    add_ids(mixture_or_task_name, [example for row in found for example in row])
    files.write_json_atomically(path, content)


def rows(
    batch: Mapping[str, np.ndarray], vocabulary: seqio.Vocabulary
) -> list[list[dict[str, Any]]]:
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


def add_ids(mixture_or_task_name: str, examples: Sequence[dict[str, Any]]) -> None:
    """Adds `ids` to examples from `rows`: the training records they can have come from, such as `arith:train:12, sample 0`.

    A batch is arrays and holds no ids, so the data are read once more. A record is an example's if their targets agree and
    its question is the last one of the input. Equal samples of a question can't be told apart; all of them are named. Tasks
    that keep no `question_id` have no names.
    """
    wanted = {example["targets"] for example in examples}
    records = collections.defaultdict(set)  # (question, name), by target
    vocabulary = data.vocabulary(mixture_or_task_name)
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(mixture_or_task_name)):
        dataset = task.get_dataset(sequence_length=None, split="train", shuffle=False)
        for record in dataset.as_numpy_iterator():
            target = vocabulary.decode(record["targets"].tolist())
            if target in wanted and "question_id" in record:
                question = record.get("question", b"").decode("utf-8")
                name = (
                    f"{record['question_id'].decode('utf-8')}, sample {record.get('sample_id', 0)}"
                )
                records[target].add((vocabulary.decode(vocabulary.encode(question)), name))
    for example in examples:
        found = [
            (example["inputs"].rfind(question), name)
            for question, name in records[example["targets"]]
        ]
        last = max((start for start, _ in found), default=-1)
        example["ids"] = sorted(name for start, name in found if start == last >= 0)
