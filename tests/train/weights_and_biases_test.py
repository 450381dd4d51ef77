import importlib.util

import pytest

from cotdistill_jax.train import metrics_file, metrics_log, weights_and_biases


def write(folder, first_step=0):
    with metrics_log.MetricsLog(folder, first_step, 9, tensorboard=False, progress=False) as log:
        log.write(first_step + 1, {"loss": 2.5})


def test_nothing_is_started_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_asked_for_and_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r'WANDB_PROJECT=mine.*pip install "\.\[wandb\]"'):
        weights_and_biases.start(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_an_offline_run_is_written_and_continued_under_one_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DISABLE_GIT", "true")
    write(tmp_path)
    run_id = (tmp_path / weights_and_biases.RUN_ID_FILE).read_text()
    write(tmp_path, first_step=1)
    files = sorted(tmp_path.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))
    assert files and all(b"loss" in file.read_bytes() for file in files)
    assert [line["step"] for line in metrics_file.read_metrics(tmp_path)] == [1, 2]
