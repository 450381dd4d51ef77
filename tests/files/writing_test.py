import json
import multiprocessing
import time

import pytest

from cotdistill_jax import files
from cotdistill_jax.files import lines, locks
from tests.gcs_server import Fault


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    if request.param == "disk":
        return tmp_path
    return files.as_path(request.getfixturevalue("bucket").url)


def test_lines_are_appended_and_whole(folder):
    path = folder / "a.jsonl"
    with files.LineFile(path) as file:
        for number in range(150):
            file.append(b"%d\n" % number)
            if number % 29 == 28:
                assert lines.read(path).endswith(b"\n%d\n" % number)
    assert path.read_bytes() == b"".join(b"%d\n" % number for number in range(150))
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]
    assert [value for _, value in files.read_json_lines(path, "test")] == list(range(150))


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b'{"a": 1}\n{"b"', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b": 2}', b'{"a": 1}\n{"b": 2}\n'),
        (b"", b""),
        (b'{"b"', b""),
    ],
)
def test_a_torn_line_is_removed_and_an_open_one_ended(folder, left, kept):
    path = folder / "a.jsonl"
    path.write_bytes(left)
    with files.LineFile(path) as file:
        file.append(b"3\n")
    assert path.read_bytes() == kept + b"3\n"


def test_nothing_is_lost_by_a_kill_at_any_point(bucket):
    path = files.as_path(bucket.url) / "a.jsonl"
    whole = b"".join(b"%d\n" % number for number in range(10, 17))
    file = files.LineFile(path)
    for number in range(10, 17):
        file.append(b"%d\n" % number)
    # Killed here: the file itself is empty, its parts are there.
    assert path.read_bytes() == b"" and lines.read(path) == whole
    assert [value for _, value in files.read_json_lines(path, "test", growing=True)] == [
        *range(10, 17)
    ]
    # Killed between the writing of the whole file and the removal of its parts.
    path.write_bytes(whole)
    assert lines.read(path) == whole
    with files.LineFile(path) as file:
        file.append(b"17\n")
    assert path.read_bytes() == whole + b"17\n"
    assert [path.name for path in path.parent.iterdir()] == ["a.jsonl"]


def test_replaced_lines_have_no_parts_behind_them(bucket):
    path = files.as_path(bucket.url) / "a.jsonl"
    file = files.LineFile(path)
    for number in range(10, 17):
        file.append(b"%d\n" % number)
    files.replace_lines(path, b"10\n11\n")
    assert lines.read(path) == b"10\n11\n" == path.read_bytes()


def test_a_file_is_replaced_whole(folder):
    path = folder / "a.json"
    files.write_json_atomically(path, {"b": 1})
    files.write_json_atomically(path, {"b": "ü"})
    assert json.loads(path.read_text()) == {"b": "ü"}
    assert [path.name for path in folder.iterdir()] == ["a.json"]
    assert len(files.file_sha256(path)) == 64


def test_one_process_holds_a_lock(folder, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.2)
    monkeypatch.setattr(locks, "STALE_S", 3.0)
    monkeypatch.setattr(locks, "_LOOK_S", 0.1)
    said = []
    with files.hold(folder / "run.lock", said.append) as lock:
        lock.check()
        with pytest.raises(files.HeldError) as caught, files.hold(folder / "run.lock", said.append):
            pytest.fail("held by two")
        assert caught.value.owner.startswith("process ")
    with files.hold(folder / "run.lock", said.append) as lock:
        lock.check()


def _hold_for_ever(url):
    with files.hold(files.as_path(url)):
        time.sleep(1000)


def test_a_dead_process_of_this_machine_is_taken_over_at_once(bucket):
    url = f"{bucket.url}/run.lock"
    process = multiprocessing.get_context("spawn").Process(target=_hold_for_ever, args=(url,))
    process.start()
    path = files.as_path(url)
    while not path.is_file():
        time.sleep(0.1)
    process.kill()
    process.join()
    start = time.monotonic()
    with files.hold(path):
        assert time.monotonic() - start < 5


def test_a_claim_that_does_not_change_is_taken_over_and_its_owner_stops(bucket, monkeypatch):
    path = files.as_path(bucket.url) / "run.lock"
    monkeypatch.setattr(locks, "STALE_S", 1.0)
    monkeypatch.setattr(locks, "_LOOK_S", 0.1)
    monkeypatch.setattr(locks, "_boot", lambda: "another machine")
    with files.hold(path) as first:  # its next heartbeat is 20 s away: as if its network was
        said = []
        with files.hold(path, said.append) as second:
            second.check()
            assert "watching for up to 1 s whether that process lives" in said[0]
            with pytest.raises(files.LostError, match="taken over by process"):
                first.check()
        with pytest.raises(files.LostError):
            first.check()


def test_a_heartbeat_survives_lost_answers(bucket):
    path = files.as_path(bucket.url) / "run.lock"
    with files.hold(path) as lock:
        for fault in ({"status": 503}, {"cut": True}):
            bucket.server.faults = [Fault(path=bucket.name, times=1, **fault)]
            lock.check()
