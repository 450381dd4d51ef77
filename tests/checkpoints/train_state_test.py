"""Which checkpoints of a run stay."""

import numpy as np

from cotdistill_jax import checkpoints


class Position:
    def save(self, filename):
        filename.write_text("position")


def _save(folder, scores):
    """Saves a step per score, None for one without an evaluation, keeping the newest and the best."""
    with checkpoints.TrainCheckpoints(folder, keep=1, keep_best=1, best_metric="score") as run:
        for step, score in scores.items():
            state = checkpoints.TrainState(np.int32(step), {"kernel": np.ones(2, np.float32)}, {})
            metrics = {} if score is None else {"score": score}
            run.save(state, Position(), {"note": step}, metrics)
            run.wait()


def test_the_best_stays_also_after_a_restart_and_beside_steps_without_results(tmp_path):
    _save(tmp_path, {0: None, 2: 0.7, 4: 0.3})
    assert checkpoints.list_steps(tmp_path) == [2, 4]
    _save(tmp_path, {6: 0.5, 8: None})
    assert checkpoints.list_steps(tmp_path) == [2, 8]
    assert (tmp_path / "checkpoint_2" / "metrics").is_dir()
