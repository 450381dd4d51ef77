import json

import pytest

from cotdistill_jax.inference import manifest

CONFIG = {"checkpoint": "run/checkpoint_3", "network": {"emb_dim": 8, "mlp_activations": ("gelu",)}}
FILES = {"gsm8k.zero_shot_cot": {"num_questions": 5, "questions_sha256": "ab"}}


def test_a_manifest_says_what_the_files_were_made_with(tmp_path):
    folder = tmp_path / "made"
    manifest.claim(folder, CONFIG, FILES)
    manifest.record_counts(folder, "gsm8k.zero_shot_cot", {"in": 5, "out": 5})
    found = json.loads((folder / "manifest.json").read_text())
    assert (found["artefact"], found["schema_version"], found["code_version"]) == (
        "inference",
        1,
        "0.1.0",
    )
    assert found["config"]["network"] == {"emb_dim": 8, "mlp_activations": ["gelu"]}
    assert found["predictions"] == {
        "gsm8k.zero_shot_cot": {
            "settings": FILES["gsm8k.zero_shot_cot"],
            "counts": {"in": 5, "out": 5},
        }
    }


def test_the_same_settings_and_more_files_are_accepted(tmp_path):
    manifest.claim(tmp_path, CONFIG, FILES)
    manifest.record_counts(tmp_path, "gsm8k.zero_shot_cot", {"in": 5, "out": 5})
    manifest.claim(tmp_path, CONFIG, {**FILES, "svamp.zero_shot_cot": {"num_questions": 2}})
    found = manifest.read(tmp_path)
    assert found["predictions"]["gsm8k.zero_shot_cot"]["counts"] == {"in": 5, "out": 5}
    assert found["predictions"]["svamp.zero_shot_cot"]["counts"] == {}


def test_other_settings_are_refused_by_name(tmp_path):
    manifest.claim(tmp_path, CONFIG, FILES)
    before = (tmp_path / "manifest.json").read_bytes()
    other = {**CONFIG, "network": {"emb_dim": 16, "mlp_activations": ("gelu",)}, "step": 3}
    files = {"gsm8k.zero_shot_cot": {"num_questions": 6, "questions_sha256": "cd"}}
    with pytest.raises(ValueError) as got:
        manifest.claim(tmp_path, other, files)
    message = str(got.value)
    assert "network.emb_dim is 8, now 16; step is None, now 3" in message
    assert "gsm8k.zero_shot_cot: num_questions is 5, now 6" in message
    assert "gsm8k.zero_shot_cot: questions_sha256 is 'ab', now 'cd'" in message
    assert "checkpoint" not in message and "another --output_dir" in message
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_manifest_of_something_else_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"artefact": "corpus", "schema_version": 1}')
    with pytest.raises(ValueError, match="describes corpus schema version 1, expected inference"):
        manifest.claim(tmp_path, CONFIG, FILES)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        manifest.read(tmp_path)


def test_no_manifest_is_none(tmp_path):
    assert manifest.read(tmp_path) is None
