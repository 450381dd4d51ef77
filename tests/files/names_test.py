import os
import pathlib
import subprocess
import sys

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
        ("--gin_search_paths=~/a,b,~/c", "--gin_search_paths=/home/me/a,b,/home/me/c"),
        ("--prompt=zero_shot_cot,file:~/p.txt", "--prompt=zero_shot_cot,file:/home/me/p.txt"),
        ("--gin.train/loop.model_dir = '~/x'", "--gin.train/loop.model_dir = '/home/me/x'"),
        ("--output_dir=~root/x", "--output_dir=/root/x"),
        ("--output_dir=a~/b", "--output_dir=a~/b"),
        ("--model=~name", "--model=~name"),
        ("gs://bucket/~/x", "gs://bucket/~/x"),
    ],
)
def test_the_home_folder_is_put_where_a_value_begins_with_it(monkeypatch, argument, expanded):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expand_home(argument) == expanded


def test_a_user_who_does_not_exist_has_no_home():
    with pytest.raises(
        ValueError, match=r"there is no home folder ~nobody_here; .* \./~nobody_here"
    ):
        files.expand_home("--output_dir=~nobody_here/x")


def test_a_pattern_below_a_folder_that_exists_is_looked_for_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("s[1]/c_1", "s[1]/c_2", "s1/c_3", "s1/t[2]/c_4", "s1/t2/c_5"):
        os.makedirs(folder)
    assert sorted(files.matches("s[1]/c_*")) == ["s[1]/c_1", "s[1]/c_2"]
    assert files.matches(f"{tmp_path}/s[12]/c_*") == [f"{tmp_path}/s1/c_3"]
    assert files.matches("s?/t[2]/*") == ["s1/t[2]/c_4"]
    assert files.matches("s[1]/x*") == []


def test_a_user_without_a_home_leaves_no_folder_called_tilde(tmp_path):
    """An id without a name, as containers are started with; it can be taken by root alone."""
    if os.getuid() != 0:
        pytest.skip("not root")
    tmp_path.chmod(0o777)
    code = (
        "import os, pathlib, tempfile; os.setuid(54321); import cotdistill_jax; "
        "print(os.path.expanduser('~'), os.environ['NUMBA_CACHE_DIR'])"
    )
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")}
    root = str(pathlib.Path(files.__file__).parents[2])
    env |= {"PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    home, folder = said.stdout.split()
    assert home == "/"
    assert os.stat(folder).st_uid == 54321
    assert not os.listdir(tmp_path)


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
        ValueError, match=r"train: the run folder .*: Orbax reads such a path as a pattern"
    ):
        files.refuse_pattern(f"/runs/{name}/x", "train", "run folder", "Orbax")
    files.refuse_pattern("/runs/a {b} ü,c=d%20/x", "train", "run folder", "Orbax")
