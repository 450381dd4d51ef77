"""Folders that TensorStore opens."""

import pytest

from cotdistill_jax.checkpoints import stored


@pytest.mark.parametrize("name", ["s[1]", "a*b", "what?", "{x} ü%20"])
def test_a_local_folder_is_a_name_whatever_it_holds(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "f").write_bytes(b"right")
    assert stored.read_file(stored.open_folder(str(tmp_path / name)), "f") == b"right"


def test_a_backslash_is_refused_where_another_folder_would_be_read(tmp_path):
    for name in ("a/b", "a\\b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "f").write_bytes(name.encode())
    with pytest.raises(ValueError, match=r"holds a backslash.*reads another folder.*by a link"):
        stored.open_folder(str(tmp_path / "a\\b"))
    (tmp_path / "link").symlink_to(tmp_path / "a\\b")
    assert stored.read_file(stored.open_folder(str(tmp_path / "link")), "f") == b"a\\b"
