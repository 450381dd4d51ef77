"""Two configurations: what differs, and which differences need leave."""

import gin
import pytest

from cotdistill_jax.train import config_changes, gin_config

FILES = ["gin/experiments/gsm8k_gold_tiny.gin", "gin/runs/finetune.gin"]


def _bindings(*changed):
    gin_config.parse(FILES, ["MODEL_DIR = 'x'", *changed])
    found = config_changes.bindings(gin.config_str())
    gin.clear_config()
    return found


def test_bindings_of_a_text():
    text = (
        "import a\n\n# Macros:\nA = 1\nB = \\\n    [1,\n     2]\n# Parameters for f:\nm.f.x = %A\n"
    )
    assert config_changes.bindings(text) == {"A": "1", "B": "[1, 2]", "m.f.x": "%A"}


def test_differences_of_a_real_configuration_are_named():
    before = _bindings()
    assert before["TRAIN_STEPS"] == "100"
    assert before["TASK_FEATURE_LENGTHS"] == "{'inputs': 1024, 'targets': 320}"
    changed = _bindings("LEARNING_RATE = 1e-4", "LOG_PERIOD = 7", "MODEL_DIR = 'y'")
    changes = config_changes.between(before, changed)
    assert [str(change) for change in changes] == [
        "LEARNING_RATE: 0.002 -> 0.0001",
        "LOG_PERIOD: 10 -> 7",
        "MODEL_DIR: 'x' -> 'y'",
    ]
    assert [change.harmless for change in changes] == [False, True, True]
    assert config_changes.between(before, before) == []


def test_grave_changes_need_leave_once_there_are_steps():
    grave = config_changes.Change("LEARNING_RATE", "1.0", None)
    harmless = config_changes.Change("EVAL_PERIOD", "None", "5")
    with pytest.raises(config_changes.ConfigChangedError, match=r"LEARNING_RATE: 1\.0 -> not set"):
        config_changes.check([grave, harmless], 10, allowed=False)
    config_changes.check([grave], 0, allowed=False)
    config_changes.check([grave], 10, allowed=True)
    config_changes.check([harmless], 10, allowed=False)


def test_of_another_runners_configuration_only_the_settings_are_compared():
    under_t5x = {"BATCH_SIZE": "4", "t5x_model.Partitioner.mesh_shape": "%MESH_SHAPE"}
    embedded = {"BATCH_SIZE": "8", "loop.train.batch_size": "%BATCH_SIZE"}
    assert [change.name for change in config_changes.between(under_t5x, embedded)] == ["BATCH_SIZE"]
