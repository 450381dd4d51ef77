import json

import pytest

pytest.importorskip("openai", reason="teacher.decoding needs the extra `teacher`")

from cotdistill_jax import teacher
from cotdistill_jax.teacher import decoding, shards
from cotdistill_jax.teacher.decoding import journal

CONFIG = {"model": "m"}


def record(number, sample=0):
    return teacher.TeacherRecord(
        question_id=f"q{number}",
        sample_id=sample,
        question=f"{number} + 1?",
        gold="2",
        text="It is 2",
        tokens=("It", " is 2"),
        top_k=((("It", 0.1 + 0.2), ("A", 0.5)), ((" is 2", 1.0),)),
        label=None,
        teacher="m",
        decode_settings={"seed": None},
    )


def entry(number, num_samples=1, first=0):
    samples = tuple(record(number, first + n) for n in range(num_samples))
    return journal.Entry(f"q{number}", {"requests": 1, "prompt_tokens": 7}, samples)


def open_store(folder, **changes):
    settings = {"config": CONFIG, "inputs": {}, "records_per_shard": 4, **changes}
    return decoding.Store(folder, **settings)


def abandon(store):
    """Leaves a store as a killed process does."""
    store._journal.close()
    store._opened.close()


def test_what_was_added_is_there_after_a_kill_and_is_written_once(tmp_path):
    store = open_store(tmp_path)
    for number in range(6):
        store.add(entry(number))
    store.add(journal.Entry("q9", {"requests": 1}, failure=journal.Failure("time_out", "slow")))
    abandon(store)
    assert [shard.name for shard in tmp_path.glob("*.parquet")] == ["records-00000.parquet"]
    found = decoding.Finished(tmp_path)
    assert [found.num_samples(f"q{n}", f"{n} + 1?") for n in range(7)] == [1] * 6 + [0]
    assert found.totals == {"requests": 7, "prompt_tokens": 42}
    assert found.failures == {"q9": journal.Failure("time_out", "slow")}
    with open_store(tmp_path) as store:
        assert [store.num_samples(f"q{n}") for n in range(7)] == [1] * 6 + [0]
        store.add(entry(9, num_samples=2))
        assert store.failures == {}
        store.finish({"spend_cap": 3})
    assert list(teacher.read_records(tmp_path)) == [*map(record, range(6)), record(9), record(9, 1)]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["counts"] == {"in": 11, "out": 8, "dropped": {"spend_cap": 3}}
    assert decoding.usage_of(decoding.Finished(tmp_path).totals) == decoding.Usage(49, 0)


def test_a_kill_between_shard_and_journal_doubles_nothing(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    monkeypatch.setattr(journal.Journal, "begin_anew", lambda self: None)
    for number in range(5):
        store.add(entry(number))
    abandon(store)
    monkeypatch.undo()
    with open_store(tmp_path) as store:
        store.add(entry(0, first=1))
        store.finish({})
    assert sorted(r.key for r in teacher.read_records(tmp_path)) == sorted(
        [("q0", 0), ("q0", 1), ("q1", 0), ("q2", 0), ("q3", 0), ("q4", 0)]
    )


@pytest.mark.parametrize("kept_bytes", [1, 60, -1])
def test_a_line_that_a_kill_cut_off_is_removed(tmp_path, kept_bytes):
    store = open_store(tmp_path)
    store.add(entry(0))
    abandon(store)
    path = tmp_path / journal.JOURNAL_NAME
    line = path.read_bytes()
    path.write_bytes(line + line.replace(b"q0", b"q1")[:kept_bytes])
    assert decoding.Finished(tmp_path).num_samples("q1", "?") == 0
    store = open_store(tmp_path)
    store.add(entry(2))
    abandon(store)
    assert [r.question_id for r in journal.read(tmp_path).records] == ["q0", "q2"]


def test_blank_lines_in_a_journal_are_passed_over(tmp_path):
    store = open_store(tmp_path)
    store.add(entry(0))
    abandon(store)
    path = tmp_path / journal.JOURNAL_NAME
    path.write_bytes(b"\n" + path.read_bytes() + b"\r\n\n")
    store = open_store(tmp_path)
    store.add(entry(1))
    abandon(store)
    assert [r.question_id for r in journal.read(tmp_path).records] == ["q0", "q1"]


def test_a_damaged_journal_is_refused_with_its_line(tmp_path):
    store = open_store(tmp_path)
    store.add(entry(0))
    abandon(store)
    with (tmp_path / journal.JOURNAL_NAME).open("ab") as stream:
        stream.write(b'{"question_id": "q1"}\n')
    with pytest.raises(
        shards.ShardError, match=r"line 2 of .*journal.jsonl cannot be read \(KeyError"
    ):
        decoding.Finished(tmp_path)


def test_a_folder_has_one_config_and_one_process(tmp_path):
    with open_store(tmp_path) as store:
        store.add(entry(0))
        with pytest.raises(decoding.FolderInUseError, match="another process decodes into"):
            open_store(tmp_path)
    with pytest.raises(
        shards.ShardError, match=r"cannot resume .* it was written with {'model': 'm'}"
    ):
        open_store(tmp_path, config={"model": "n"})


def test_another_question_of_the_same_id_is_refused(tmp_path):
    with open_store(tmp_path) as store:
        store.add(entry(0))
    with pytest.raises(
        ValueError, match=r"question q0 is '5 \+ 5\?' here and '0 \+ 1\?' in the output folder"
    ):
        decoding.Finished(tmp_path).num_samples("q0", "5 + 5?")


def test_an_invalid_record_is_refused_before_it_is_written(tmp_path):
    wrong = teacher.TeacherRecord(**{**vars(record(0)), "tokens": ("It",)})
    with open_store(tmp_path) as store:
        with pytest.raises(teacher.RecordError, match="1 tokens but 2 rows"):
            store.add(journal.Entry("q0", {"requests": 1}, (wrong,)))
        assert store.totals == {}
    assert decoding.Finished(tmp_path).num_samples("q0", "0 + 1?") == 0
