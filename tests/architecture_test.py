"""The one-way data flow: a module imports only from stages before its own; early stages need no framework."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "cotdistill_jax"

STAGES = (
    "files",
    "command",
    "accelerators",
    "teacher",
    "answers",
    "benchmarks",
    "alignment",
    "formats",
    "corpus",
    "features",
    "seqio_tasks",
    "devices",
    "network",
    "losses",
    "partitioning",
    "checkpoints",
    "decoding",
    "train",
    "t5x_model",
    "inference",
    "report",
    "inspection",
)
FRAMEWORKS = {"jax", "flax", "optax", "tensorflow", "seqio", "tensorflow_datasets"}
NO_FRAMEWORK = (
    "files",
    "command",
    "accelerators",
    "teacher",
    "answers",
    "benchmarks",
    "alignment",
    "formats",
    "report",
)
NO_TENSORFLOW = ("network", "losses", "partitioning", "decoding", "checkpoints", "train/step")
TENSORFLOW = {"tensorflow", "seqio", "tensorflow_datasets", "clu"}


def _imports(path: pathlib.Path, *, module_level: bool = False) -> Iterator[str]:
    """Yields every imported module as a dotted name; `from a import b` counts as a and a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _stage(path: pathlib.Path) -> str | None:
    first = path.relative_to(PACKAGE).parts[0]
    return None if first == "__init__.py" else first.removesuffix(".py")


def _name(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_belongs_to_a_stage():
    assert {_stage(path) for path in _modules()} - {None} <= set(STAGES)


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_imports_only_from_earlier_stages(path):
    stage = _stage(path)
    position = STAGES.index(stage) if stage else -1
    for module in _imports(path):
        parts = module.split(".")
        assert parts[0] not in {"tasks", "scripts", "tests"}, f"{module}: the library imports none"
        if parts[0] == "cotdistill_jax" and len(parts) > 1 and parts[1] in STAGES:
            assert STAGES.index(parts[1]) <= position, f"{stage} imports the later stage {parts[1]}"


@pytest.mark.parametrize("stage", NO_FRAMEWORK)
def test_early_stages_import_no_framework(stage):
    for path in (path for path in _modules() if _stage(path) == stage):
        assert not {m.split(".")[0] for m in _imports(path, module_level=True)} & FRAMEWORKS, path


@pytest.mark.parametrize("prefix", NO_TENSORFLOW)
def test_what_computes_imports_no_tensorflow(prefix):
    paths = [p for p in _modules() if str(p.relative_to(PACKAGE)).startswith(prefix)]
    assert paths
    for path in paths:
        assert not {m.split(".")[0] for m in _imports(path)} & TENSORFLOW, path


def test_the_core_runs_where_tensorflow_is_not_installed():
    modules = ", ".join(f"cotdistill_jax.{name}" for name in ("losses", "decoding", "train.step"))
    check = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_only_the_adapter_imports_t5x():
    importing = {
        _stage(path) for path in _modules() if "t5x" in {m.split(".")[0] for m in _imports(path)}
    }
    assert importing <= {"t5x_model"}


def test_gin_is_a_folder_and_not_a_package():
    assert not (ROOT / "gin" / "__init__.py").exists()


def test_no_file_of_homeless_functions():
    homeless = {"utils.py", "misc.py", "common.py", "helpers.py"}
    assert not [
        path
        for path in ROOT.glob("*/**/*.py")
        if path.name in homeless and ".venv" not in path.parts
    ]


# What is a place on this machine whatever its user says: beside the code, in the kernel's or a temporary folder, a cache.
_OWN_PLACES = ("__file__", "cotdistill_jax.__file__", "tempfile.", "scratch", "huggingface_hub.", "last.filename", "_CACHE", "os.path.expanduser", "name", "temporary", "self._folder.name", "config", "snapshot", "'/", "'~")  # fmt: skip


def test_one_room_decides_what_a_users_path_is():
    """A bucket taken for a local path becomes a folder named `gs:`: what users name goes through `files.as_path` or `local_path`."""
    found = []
    scripts = [path for path in (ROOT / "scripts").glob("*.py") if not path.name.startswith(("benchmark_", "check_", "make_golden"))]  # fmt: skip
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tasks").glob("*.py"), *scripts]:
        if path.is_relative_to(PACKAGE / "files"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            text = ast.unparse(node.args[0]) if node.args else ""
            if called in ("pathlib.Path", "Path") and not text.startswith(_OWN_PLACES):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}")
            if any(keyword.arg == "type" and ast.unparse(keyword.value) == "pathlib.Path" for keyword in node.keywords):  # fmt: skip
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: type=pathlib.Path")
    assert found == []
