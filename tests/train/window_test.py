"""Lines of metrics: means, spikes, steps left out, and what a checkpoint between two lines remembers."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cotdistill_jax import features
from cotdistill_jax.train import metrics_file, metrics_log, window

TASK = "window_test"
RECORDS = {
    "inputs": ["ab", "c", "c", "b"],
    "targets": ["d", "ef", "ef", "d"],
    "question": ["b", "c", "c", "a"],
    "question_id": ["train:0", "train:1", "train:1", "train:2"],
    "sample_id": [0, 0, 1, 0],
}
VOCABULARY = seqio.ByteVocabulary()
seqio.TaskRegistry.add(
    TASK,
    source=seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(RECORDS),
        splits=["train"],
    ),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=features.text_features(VOCABULARY),
)
BATCH = {
    "encoder_input_tokens": np.array([[*VOCABULARY.encode("abc"), 0]]),
    "encoder_segment_ids": np.array([[1, 1, 2, 0]]),
    "decoder_target_tokens": np.array([[*VOCABULARY.encode("def"), 0]]),
    "decoder_segment_ids": np.array([[1, 2, 2, 0]]),
    "decoder_positions": np.array([[0, 0, 1, 0]]),
}


def _metrics(loss):
    values = {"loss": loss, "grad_norm": 1.0, "num_target_tokens": 4.0, "num_input_tokens": 8.0}
    return {name: np.float32(value) for name, value in values.items()}


def _run(folder, losses, period=4, on_nonfinite="stop", notes=None, first=0):
    with metrics_log.MetricsLog(folder, first, 100, tensorboard=False, progress=False) as log:
        found = window.Window(folder, log, TASK, None, on_nonfinite, notes)
        for number, loss in enumerate(losses, start=first + 1):
            found.add(number, _metrics(loss), BATCH)
            if number % period == 0:
                found.close(number)
        return found.notes()


def _lines(folder):
    times = ("steps_per_second", "tokens_per_second")
    return [
        {name: value for name, value in line.items() if name not in times}
        for line in metrics_file.read_metrics(folder)
    ]


def test_line_holds_means_and_sums(tmp_path):
    _run(tmp_path, [1.0, 2.0, 3.0, 4.0])
    (line,) = metrics_file.read_metrics(tmp_path)
    assert (line["step"], line["loss"], line["num_target_tokens"]) == (4, 2.5, 16.0)
    assert line["tokens_per_second"] == pytest.approx(12 * line["steps_per_second"])


@pytest.mark.parametrize("cut", [1, 4, 6, 31])
def test_lines_of_a_run_continued_between_two_lines_are_those_of_one_run(tmp_path, cut):
    losses = np.random.default_rng(0).normal(2.0, 0.1, 40).tolist()
    losses[33] = 9.0
    _run(tmp_path, losses)
    other = tmp_path / "cut"
    other.mkdir()
    notes = json.loads(json.dumps(_run(other, losses[:cut])))
    _run(other, losses[cut:], notes=notes, first=cut)
    assert _lines(other) == _lines(tmp_path)
    assert sum(line["num_loss_spikes"] for line in _lines(other)) == 1


def test_spike_is_reported_with_its_batch_as_text_and_ids(tmp_path, capsys):
    _run(tmp_path, [2.0] * 30 + [2.1, 4.0, 2.0, 2.0])
    found = sorted(path.name for path in (tmp_path / "incidents").iterdir())
    assert found == ["step_00000032_loss_spike.json", "step_00000032_loss_spike.npz"]
    assert "loss spike at step 32: 4, median of the 31 steps before 2" in capsys.readouterr().out
    content = json.loads((tmp_path / "incidents" / found[0]).read_text())
    assert content["rows"] == [
        [
            {"inputs": "ab", "targets": "d", "num_target_tokens": 1, "ids": ["train:0, sample 0"]},
            {
                "inputs": "c",
                "targets": "ef",
                "num_target_tokens": 2,
                "ids": ["train:1, sample 0", "train:1, sample 1"],
            },
        ]
    ]
    with np.load(tmp_path / "incidents" / found[1]) as arrays:
        np.testing.assert_array_equal(arrays["encoder_input_tokens"], BATCH["encoder_input_tokens"])


def test_nan_stops_and_leaves_its_batch(tmp_path):
    with pytest.raises(window.NonFiniteLossError, match=r"loss nan, gradient norm 1\.0 at step 3"):
        _run(tmp_path, [1.0, 1.0, np.nan, 1.0])
    assert (tmp_path / "incidents" / "step_00000003_nonfinite.json").exists()


def test_skipped_steps_are_counted_and_left_out_of_means(tmp_path):
    _run(tmp_path, [1.0, np.nan, 3.0, np.inf], on_nonfinite="skip")
    (line,) = metrics_file.read_metrics(tmp_path)
    assert (line["loss"], line["num_skipped_steps"], line["num_target_tokens"]) == (2.0, 2.0, 16.0)


def test_ten_skipped_steps_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(window.NonFiniteLossError, match="at step 12, the 10th such step in a row"):
        _run(tmp_path, [1.0, 1.0, *[np.nan] * 20], on_nonfinite="skip")
