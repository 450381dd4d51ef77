import os

import pytest

from cotdistill_jax import files


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("--output_dir=~/runs", "--output_dir=/home/me/runs"),
        ("~/runs", "/home/me/runs"),
        ("--data_dir=~", "--data_dir=/home/me"),
        ("--prompt=file:~/p.txt", "--prompt=file:/home/me/p.txt"),
        ("""--gin.MODEL_DIR='"~/runs/x"'""", """--gin.MODEL_DIR='"~/runs/x"'"""),
        ("""--gin.MODEL_DIR="~/runs/x\"""", """--gin.MODEL_DIR="/home/me/runs/x\""""),
        ("--output_dir=a~/b", "--output_dir=a~/b"),
        ("--model=~name", "--model=~name"),
        ("gs://bucket/~/x", "gs://bucket/~/x"),
    ],
)
def test_the_home_folder_is_put_where_a_value_begins_with_it(monkeypatch, argument, expanded):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expand_home(argument) == expanded


@pytest.mark.parametrize("name", ["sweep[1]", "a*b", "what?", "{x}", "a b", "ü", "back\\slash"])
def test_a_folder_that_exists_is_a_name_whatever_it_holds(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkdir(name)
    assert files.is_name(name)
    assert not files.is_name("other[1]")
    assert not files.is_name("checkpoint_*")


@pytest.mark.parametrize("name", ["sweep[1]", "a*b", "what?", "back\\slash", "two\nlines"])
def test_run_folders_in_which_orbax_would_lose_arrays_are_refused(name):
    with pytest.raises(
        ValueError, match=r"train: the run folder .* reads such a path as a pattern"
    ):
        files.refuse_pattern(f"/runs/{name}/x", "train")
    files.refuse_pattern("/runs/a {b} ü,c=d%20/x", "train")
