"""The lines of `metrics.jsonl`, read: apart from `metrics_log.py`, so that the report needs no TensorFlow for them."""

from cotdistill_jax import files

METRICS_FILE = "metrics.jsonl"


def read_metrics(model_dir: files.AnyPath) -> list[dict[str, float]]:
    """Returns the lines of a run folder's `metrics.jsonl`, oldest first; a torn last line is left out, a missing file has none."""
    path = files.as_path(model_dir) / METRICS_FILE
    if not path.exists():
        return []
    return [line for _, line in files.read_json_lines(path, "metrics", growing=True)]
