"""Names of TPU slices, refusals of the compiler, a missing libtpu and its lock; nothing here needs libtpu."""

import fcntl
import importlib.util

import pytest

from cotdistill_jax.train import chips, tpu_topologies


def test_a_slice_has_so_many_chips():
    found = tpu_topologies.parse("v5p:2x2x4")
    assert (found.num_devices, found.kind.chip) == (16, "TPU v5p")
    assert tpu_topologies.parse("v5e:1x1").num_devices == 1


def test_every_kind_is_a_chip_of_the_plan():
    names = {chip.name for chip in chips.CHIPS}
    assert {kind.chip for kind in tpu_topologies.KINDS.values()} <= names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v5e:3x3", "of v5e there are v5e:1x1, v5e:2x2, v5e:2x4"),
        ("v5litepod:2x4", "kinds: v4, v5e, v5p, v6e, each with a slice"),
        ("v5:2x4", "did you mean v5e:2x4"),
        ("", "kinds: v4"),
    ],
)
def test_an_unknown_slice_is_refused_with_what_there_is(text, expected):
    with pytest.raises(ValueError, match=expected):
        tpu_topologies.parse(text)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (16.97G) exceeds "
            "available HBM (15.75G).",
            (16.97 * 2**30, 15.75 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.03G of 15.75G hbm. Exceeded hbm capacity by 2.28G.",
            (18.03 * 2**30, 15.75 * 2**30),
        ),
        ("INVALID_ARGUMENT: something else", None),
    ],
)
def test_a_refusal_says_what_is_needed_and_what_is_there(message, expected):
    assert tpu_topologies.refused_bytes(message) == expected


def test_without_libtpu_a_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "jax\[tpu\]=='):
        tpu_topologies.devices(tpu_topologies.parse("v5e:2x2"))


def test_a_lock_that_nobody_holds_is_removed_and_one_that_is_held_stays(
    tmp_path, monkeypatch, capsys
):
    lock = tmp_path / "libtpu_lockfile"
    monkeypatch.setattr(tpu_topologies, "_LOCK", lock)
    lock.touch()
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        tpu_topologies._remove_stale_lock()
        assert lock.exists()
        assert "another process holds" in capsys.readouterr().err
    tpu_topologies._remove_stale_lock()
    assert not lock.exists()
    assert "left by a process that is gone" in capsys.readouterr().err
    tpu_topologies._remove_stale_lock()
    assert capsys.readouterr().err == ""
