"""Flags to checkpoints; the folders are empty, since nothing is loaded."""

import pathlib

import pytest

from cotdistill_jax import files
from cotdistill_jax.inference import manifest, selection


@pytest.fixture
def runs(tmp_path):
    for name in ("a/checkpoint_100", "a/checkpoint_20", "b/checkpoint_7", "hf"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hf" / "config.json").write_text("{}")
    return tmp_path


def chosen(runs, checkpoint, steps=None):
    found = selection.select(str(runs / checkpoint), steps)
    return [(str(one.path.relative_to(runs)), one.step, str(one.folder)) for one in found]


def test_one_folder_goes_to_the_output_folder(runs):
    assert chosen(runs, "a") == [("a/checkpoint_100", 100, ".")]
    assert chosen(runs, "a/checkpoint_20") == [("a/checkpoint_20", 20, ".")]
    assert chosen(runs, "hf") == [("hf", 0, ".")]


def test_steps_of_one_run(runs):
    latest = ("a/checkpoint_100", 100, "checkpoint_100")
    assert chosen(runs, "a", "latest") == [latest]
    assert chosen(runs, "a", "all") == [("a/checkpoint_20", 20, "checkpoint_20"), latest]
    assert chosen(runs, "a", "100,20") == chosen(runs, "a", "all")


def test_a_glob(runs):
    assert chosen(runs, "[ab]", "all") == [
        ("a/checkpoint_20", 20, "a/checkpoint_20"),
        ("a/checkpoint_100", 100, "a/checkpoint_100"),
        ("b/checkpoint_7", 7, "b/checkpoint_7"),
    ]
    assert [folder for _, _, folder in chosen(runs, "a/*")] == ["checkpoint_20", "checkpoint_100"]
    assert chosen(runs, "h*") == [("hf", 0, "hf")]
    (runs / "[ab]" / "checkpoint_3").mkdir(parents=True)
    assert chosen(runs, "[ab]/checkpoint_*") == [("[ab]/checkpoint_3", 3, "checkpoint_3")]


def test_weights_files_and_single_files(runs):
    (runs / "hf" / "model.safetensors").write_bytes(b"")
    assert chosen(runs, "hf/model.safetensors") == [("hf", 0, ".")]
    (runs / "checkpoint_5").write_bytes(b"flax")
    assert chosen(runs, "checkpoint_5") == [("checkpoint_5", 5, ".")]
    assert chosen(runs, "checkpoint_*") == [("checkpoint_5", 5, "checkpoint_5")]
    before = manifest.folder_sha256(runs / "checkpoint_5")
    (runs / "checkpoint_5").write_bytes(b"flux")
    assert manifest.folder_sha256(runs / "checkpoint_5") != before


def test_a_run_in_a_bucket_is_listed_as_one_on_disk(bucket):
    run = files.as_path(f"{bucket.url}/some/run")
    for name in ("checkpoint_5/commit_success.txt", "checkpoint_20/commit_success.txt", "checkpoint_30/state/x"):  # fmt: skip
        (run / name).write_text("")
    (latest,) = selection.select(f"{run}/")
    assert (str(latest.path), latest.step, latest.folder) == (f"{run}/checkpoint_20", 20, ".")
    (named,) = selection.select(f"{run}/checkpoint_5")
    assert (str(named.path), named.step, named.folder) == (f"{run}/checkpoint_5", 5, ".")
    both = selection.select(str(run), "all")
    assert [(one.step, one.folder) for one in both] == [(5, "checkpoint_5"), (20, "checkpoint_20")]
    before = manifest.folder_sha256(named.path)
    assert before == manifest.folder_sha256(named.path)
    (named.path / "state").joinpath("manifest.ocdbt").write_text("x")
    assert manifest.folder_sha256(named.path) != before


def test_what_does_not_exist_is_named(runs):
    with pytest.raises(
        FileNotFoundError, match=r"a has no checkpoint of step \[21\]; it has \[20, 100\]"
    ):
        chosen(runs, "a", "20,21")
    with pytest.raises(FileNotFoundError, match="no folder matches --checkpoint="):
        chosen(runs, "z*")
    with pytest.raises(FileNotFoundError, match="no folder"):
        chosen(runs, "z")
    with pytest.raises(
        ValueError, match="must be all, latest or numbers such as 100,200; got 'last'"
    ):
        chosen(runs, "a", "last")
    with pytest.raises(ValueError, match="got the single checkpoint"):
        chosen(runs, "a/checkpoint_20", "all")


def test_folders_are_relative(runs):
    for one in selection.select(str(runs / "*"), None):
        assert not pathlib.Path(one.folder).is_absolute()
