import gin
import pytest

from cotdistill_jax.train import gin_config

LEAF = "TRAIN_STEPS = 100\nWARMUP_STEPS = 10\nMODEL_DIR = 'runs/x'\n"


@pytest.fixture(autouse=True)
def _no_configuration_is_left():
    yield
    gin.clear_config()


def leaf(folder, content):
    path = folder / "leaf.gin"
    path.write_bytes(content)
    return [str(path)]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path, mark, ends):
    gin_config.parse(leaf(tmp_path, mark + LEAF.encode().replace(b"\n", ends)))
    assert gin.query_parameter("TRAIN_STEPS/macro.value") == 100


def test_what_is_no_gin_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"leaf\.gin holds a Git LFS pointer"):
        gin_config.parse(leaf(tmp_path, b"version https://git-lfs.github.com/spec/v1\nsize 9\n"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("MODEL_DIR", "runs/x"), ("MODEL_DIR", "~/x"), ("MODEL_DIR", "gs://b/x"), ("MODEL_DIR", "x")],
)
def test_a_text_that_lost_its_quotes_says_what_to_write(name, value):
    with pytest.raises(ValueError, match=rf"--gin\.{name}='\"{value}\"'"):
        gin_config.split_bindings([f"--gin.{name}={value}"])


@pytest.mark.parametrize(
    "value", ["5", "-1e-3", "'runs/x'", '"x"', "None", "(1, 2)", "{'a': 1}", "%OTHER", "@f()", "[]"]
)
def test_values_are_taken_as_they_are(value):
    assert gin_config.split_bindings([f"--gin.NAME={value}"]) == ([f"NAME = {value}"], [])


def test_a_run_that_ends_before_its_warm_up_is_refused_where_its_rate_must_fall(tmp_path, capsys):
    path = leaf(tmp_path, LEAF.encode())
    gin_config.parse(path, ["TRAIN_STEPS = 10"])
    assert capsys.readouterr().err == ""
    gin_config.parse(path, ["TRAIN_STEPS = 9"])
    assert "TRAIN_STEPS = 9 is below WARMUP_STEPS = 10" in capsys.readouterr().err
    falling = f"include 'gin/schedules/cosine.gin'\nLEARNING_RATE = 1.0\n{LEAF}"
    path = leaf(tmp_path, falling.encode())
    with pytest.raises(ValueError, match="TRAIN_STEPS = 9 is below WARMUP_STEPS = 10"):
        gin_config.parse(path, ["TRAIN_STEPS = 9"])
