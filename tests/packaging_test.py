"""The package as `pip install` leaves it: tasks, gin files and scripts are there, in a folder that is no checkout."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CHECK = """
import pathlib
import cotdistill_jax, gin, seqio, tasks
from cotdistill_jax.train import gin_config
here = pathlib.Path(cotdistill_jax.__file__).parents[1]
assert tasks.__file__ == str(here / "tasks" / "__init__.py"), tasks.__file__
assert not here.is_relative_to(gin.__path__[0]), "gin is gin-config's"
leaves = sorted(pathlib.Path(cotdistill_jax.gin_search_path(), "gin/experiments").glob("*.gin"))
for leaf in leaves:
    gin_config.parse([f"gin/experiments/{leaf.name}", "gin/runs/finetune.gin"], ["MODEL_DIR = 'x'"])
    seqio.get_mixture_or_task(gin.query_parameter("MIXTURE_OR_TASK_NAME/macro.value"))
print(cotdistill_jax.gin_search_path(), len(leaves))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Returns a folder with the wheel of this checkout installed in it, and nothing else."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("cotdistill_jax", "gin", "scripts", "tasks"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    flags = ["--no-build-isolation", "--target", str(folder / "site"), str(source)]
    done = subprocess.run([*pip, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "site"


def _python(installed, *arguments):
    elsewhere = installed.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_every_leaf_is_found_and_its_tasks_are_registered(installed):
    done = _python(installed, "-c", CHECK)
    leaves = len(list((ROOT / "gin" / "experiments").glob("*.gin")))
    said = f"{installed / 'cotdistill_jax'} {leaves}"
    assert done.stdout.splitlines()[-1:] == [said], done.stderr[-2000:]
    assert {path.name for path in (installed / "cotdistill_jax" / "gin" / "t5x").iterdir()} == {
        path.name for path in (ROOT / "gin" / "t5x").iterdir()
    }


@pytest.mark.slow
def test_scripts_are_modules_and_answer_a_mistake_in_one_line(installed):
    done = _python(installed, "-m", "cotdistill_jax.scripts.rescore", "--predictions=no.jsonl")
    assert (done.returncode, done.stderr.strip()) == (1, "No such file or directory: no.jsonl")
    bad = installed.parent / "elsewhere" / "bad.jsonl"
    bad.write_text("{}\n")
    done = _python(installed, "-m", "cotdistill_jax.scripts.rescore", f"--predictions={bad}")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "bad.jsonl" in done.stderr


def test_a_checkout_reads_its_own_gin_files():
    import cotdistill_jax

    assert cotdistill_jax.gin_search_path() == str(ROOT)


def test_the_citation_names_this_version():
    import cotdistill_jax

    said = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {cotdistill_jax.__version__}" in said
    assert "Apache License" in (ROOT / "LICENSE").read_text()
