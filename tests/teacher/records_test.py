import dataclasses
import json
import math

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from cotdistill_jax import teacher
from cotdistill_jax.teacher import records, shards


def make_record(number=0, **changes):
    record = teacher.TeacherRecord(
        question_id=f"q{number // 2}",
        sample_id=number % 2,
        question="1 + 1?",
        gold="2",
        text="It is 2",
        tokens=("It", " is", " 2"),
        top_k=((("It", 0.9), ("The", 0.1)), ((" is", 1.0),), ((" 2", 0.75), (" 3", 0.25))),
        label=True,
        teacher="example",
        decode_settings={"temperature": 0.5},
    )
    return dataclasses.replace(record, **changes)


def test_write_then_read_returns_equal_records_across_shards(tmp_path):
    wanted = [make_record(number, label=[True, False, None][number % 3]) for number in range(7)]
    with teacher.RecordWriter(tmp_path, config={"seed": 1}, records_per_shard=3) as writer:
        for record in wanted:
            writer.write(record)
        writer.count_dropped("no_answer", 2)
    assert list(teacher.read_records(tmp_path)) == wanted
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [3, 3, 1]
    assert manifest["counts"] == {"in": 9, "out": 7, "dropped": {"no_answer": 2}}
    assert manifest["complete"] is True
    assert manifest["config"] == {"seed": 1}
    assert wanted[0].key == ("q0", 0)


@hypothesis.settings(
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
)
@hypothesis.given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    rows=st.lists(
        st.lists(
            st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 0.2)),
            max_size=5,
        )
    ),
)
def test_any_text_and_any_probability_survive_exactly(tmp_path_factory, text, rows):
    folder = tmp_path_factory.mktemp("records")
    top_k = tuple(tuple(row) for row in rows)
    record = make_record(
        text=text, tokens=tuple("t" for _ in rows), top_k=top_k, question=text, gold=text
    )
    assert teacher.write_records(folder, [record]) == 1
    assert list(teacher.read_records(folder)) == [record]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((("It", math.nan),), "expected numbers from 0 to 1"),
        ((("It", 1.01),), "expected numbers from 0 to 1"),
        ((("It", 0.5), ("A", -0.1)), "expected numbers from 0 to 1"),
        ((("It", -0.1), ("A", -2.3)), "look like log-probabilities.*math.exp"),
        ((("It", 0.8), ("A", 0.8)), "add up to more than 1"),
    ],
)
def test_bad_probabilities_are_refused_with_record_and_step(tmp_path, row, message):
    record = make_record(3, tokens=("It",), top_k=(row,))
    with pytest.raises(teacher.RecordError, match=r"\('q1', 1\), step 0 \('It'\).*" + message):
        teacher.write_records(tmp_path, [record])


def test_the_sampled_token_listed_twice_counts_once(tmp_path):
    record = make_record(tokens=("It",), top_k=((("It", 0.9), ("The", 0.05), ("It", 0.9)),))
    assert teacher.write_records(tmp_path, [record]) == 1


def test_rows_that_do_not_match_the_tokens_are_refused(tmp_path):
    with pytest.raises(teacher.RecordError, match="3 tokens but 1 rows of candidates"):
        teacher.write_records(tmp_path, [make_record(top_k=((),))])


@pytest.mark.parametrize("changes", [{"question_id": ""}, {"sample_id": -1}])
def test_records_without_identity_are_refused(tmp_path, changes):
    with pytest.raises(teacher.RecordError, match="question_id must not be empty"):
        teacher.write_records(tmp_path, [make_record(**changes)])


def test_a_repeated_question_and_sample_is_refused(tmp_path):
    with pytest.raises(teacher.RecordError, match=r"\('q0', 0\): there is already a record"):
        teacher.write_records(tmp_path, [make_record(0), make_record(0)])


def test_a_repetition_between_shards_is_found_when_reading(tmp_path):
    with shards.ShardWriter(tmp_path, records.LAYOUT) as writer:
        writer.write(records.records_to_table([make_record(0)]))
        writer.write(records.records_to_table([make_record(0)]))
    with pytest.raises(teacher.RecordError, match="occurs twice"):
        list(teacher.read_records(tmp_path))


def test_an_interruption_leaves_whole_shards_and_resume_continues(tmp_path):
    wanted = [make_record(number) for number in range(8)]
    with (
        pytest.raises(KeyboardInterrupt),
        teacher.RecordWriter(tmp_path, records_per_shard=3) as writer,
    ):
        for record in wanted[:5]:
            writer.write(record)
        writer.count_dropped("wrong")
        raise KeyboardInterrupt
    (tmp_path / "records-00001.parquet.partial").write_bytes(b"half a shard")
    assert list(teacher.read_records(tmp_path, allow_incomplete=True)) == wanted[:3]
    with pytest.raises(teacher.ShardError, match="is incomplete"):
        list(teacher.read_records(tmp_path))
    with pytest.raises(FileExistsError, match="already holds 1 shards"):
        teacher.RecordWriter(tmp_path)
    with teacher.RecordWriter(tmp_path, records_per_shard=3, resume=True) as writer:
        assert writer.keys == {record.key for record in wanted[:3]}
        for record in wanted[3:]:
            writer.write(record)
    assert list(teacher.read_records(tmp_path)) == wanted


def test_a_shard_that_the_manifest_does_not_list_yet_is_adopted(tmp_path):
    wanted = [make_record(number) for number in range(4)]
    teacher.write_records(tmp_path, wanted[:2])
    manifest = (tmp_path / "manifest.json").read_text()
    with teacher.RecordWriter(tmp_path, resume=True) as writer:
        writer.write(wanted[2])
    (tmp_path / "manifest.json").write_text(
        manifest
    )  # as if the machine stopped between the two renames
    with teacher.RecordWriter(tmp_path, resume=True) as writer:
        assert len(writer.keys) == 3
        writer.write(wanted[3])
    assert list(teacher.read_records(tmp_path)) == wanted


def test_resuming_with_other_settings_is_refused(tmp_path):
    teacher.write_records(tmp_path, [make_record()], config={"temperature": 0.5})
    with pytest.raises(teacher.ShardError, match="cannot resume"):
        teacher.RecordWriter(tmp_path, config={"temperature": 1.0}, resume=True)


def test_a_gap_in_the_shard_numbers_is_refused(tmp_path):
    with teacher.RecordWriter(tmp_path, records_per_shard=1) as writer:
        writer.write(make_record(0))
        writer.write(make_record(1))
    (tmp_path / "records-00000.parquet").unlink()
    with pytest.raises(teacher.ShardError, match="shard 00000 was expected"):
        teacher.RecordWriter(tmp_path, resume=True)
    with pytest.raises(
        FileNotFoundError, match=r"records-00000\.parquet is listed in the manifest and missing"
    ):
        list(teacher.read_records(tmp_path))


def test_a_changed_shard_is_found_by_its_checksum(tmp_path):
    teacher.write_records(tmp_path, [make_record()])
    path = tmp_path / "records-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(teacher.ShardError, match="has checksum"):
        list(teacher.read_records(tmp_path))
    with pytest.raises(teacher.ShardError, match="is not a whole Parquet file"):
        list(teacher.read_records(tmp_path, verify=False))


def test_missing_columns_and_wrong_types_are_named(tmp_path):
    table = records.records_to_table([make_record()])
    teacher.write_records(tmp_path, [make_record()])
    path = tmp_path / "records-00000.parquet"
    pq.write_table(table.drop_columns(["gold", "tokens"]), path)
    with pytest.raises(teacher.ShardError, match=r"lacks the columns \['gold', 'tokens'\]"):
        list(teacher.read_records(tmp_path, verify=False))
    pq.write_table(table.set_column(1, "sample_id", pa.array(["0"])), path)
    with pytest.raises(
        teacher.ShardError, match=r"column sample_id .* has type string, expected int32"
    ):
        list(teacher.read_records(tmp_path, verify=False))


@pytest.mark.parametrize("name", ["records-00000.parquet", "manifest.json"])
def test_what_lies_there_instead_is_named(tmp_path, name):
    teacher.write_records(tmp_path, [make_record(0)])
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 5\n")
    with pytest.raises(teacher.ShardError, match=rf"{name} holds a Git LFS pointer \(of 5 bytes\)"):
        list(teacher.read_records(tmp_path))
    with pytest.raises(teacher.ShardError, match=rf"{name} holds a Git LFS pointer \(of 5 bytes\)"):
        teacher.RecordWriter(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, r"no manifest\.json"),
        ("{", teacher.ShardError, "is not valid JSON"),
        (
            '{"artefact": "aligned_corpus", "schema_version": 1}',
            teacher.ShardError,
            "describes aligned_corpus",
        ),
        (
            '{"artefact": "teacher_records", "schema_version": 99}',
            teacher.ShardError,
            "schema version 99",
        ),
    ],
)
def test_folders_of_another_kind_are_refused(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(error, match=message):
        list(teacher.read_records(tmp_path))


def test_batches_are_validated_like_records():
    good = records.records_to_table([make_record(0), make_record(1)]).to_batches()[0]
    records.validate_batch(good)
    for column, values, message in [
        (
            "top_k_probs",
            [[[0.9, 0.1], [1.5], [0.75, 0.25]]],
            r"step 1 .* expected numbers from 0 to 1",
        ),
        ("top_k_probs", [[[0.9, 0.1], [None], [0.75, 0.25]]], "expected numbers from 0 to 1"),
        ("top_k_probs", [[[0.9], [1.0], [0.75, 0.25]]], "differ in shape"),
        ("tokens", [["It", " is"]], "2 tokens but 3 rows"),
    ]:
        index = good.schema.get_field_index(column)
        changed = pa.array(
            [good.column(column)[0].as_py(), *values], good.schema.field(column).type
        )
        bad = good.set_column(index, good.schema.field(column), changed)
        with pytest.raises(teacher.RecordError, match=r"\('q0', 1\).*" + message):
            records.validate_batch(bad)


def test_repetitive_columns_can_stay_dictionaries(tmp_path):
    wanted = [make_record(number) for number in range(4)]
    teacher.write_records(tmp_path, wanted)
    (entry,) = shards.read_manifest(tmp_path, records.LAYOUT)["shards"]
    (batch,) = shards.read_shard(tmp_path, entry, records.LAYOUT, as_dictionaries=True)
    assert pa.types.is_dictionary(batch.column("tokens").flatten().type)
    assert pa.types.is_dictionary(batch.column("top_k_tokens").flatten().flatten().type)
    assert list(records.batch_to_records(batch)) == wanted
