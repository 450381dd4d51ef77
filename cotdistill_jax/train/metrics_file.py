"""The lines of `metrics.jsonl`, read: apart from `metrics_log.py`, so that the report needs no TensorFlow for them."""

import json
import os
import pathlib

METRICS_FILE = "metrics.jsonl"


def read_metrics(model_dir: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Returns the lines of a run folder's `metrics.jsonl`, oldest first; a torn last line is left out, a missing file has none."""
    path = pathlib.Path(model_dir) / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
