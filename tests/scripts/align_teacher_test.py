import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from cotdistill_jax import teacher
from cotdistill_jax.alignment import corpus_records, pipeline, quality
from cotdistill_jax.teacher import records, shards

ROOT = pathlib.Path(__file__).parents[2]
VOCABULARY = ROOT / "cotdistill_jax" / "corpus" / "arith.spiece.model"


def make_record(number, label=True):
    text = f"So 4 + {number} = {4 + number}.\nThe answer is {4 + number}"
    tokens = tuple(text.replace("\n", "|\n|").replace(" ", "| ").split("|"))
    return teacher.TeacherRecord(
        question_id=f"q{number}",
        sample_id=0,
        question=f"4 + {number}?",
        gold=str(4 + number),
        text=text,
        tokens=tokens,
        top_k=tuple(((token, 0.75), (" 7", 0.125)) for token in tokens),
        label=label,
        teacher="example",
    )


@pytest.fixture
def records_dir(tmp_path):
    """Five shards of three records; all of the last one are wrong."""
    with teacher.RecordWriter(tmp_path / "records", records_per_shard=3) as writer:
        for number in range(15):
            writer.write(make_record(number, label=number < 12 and number % 3 != 1))
    return tmp_path / "records"


def run_script(records_dir, output_dir, *extra):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "align_teacher.py"),
        f"--records={records_dir}",
    ]
    command += [f"--vocab={VOCABULARY}", f"--output_dir={output_dir}", *extra]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )


def checksums(folder):
    return [
        (shard["file"], shard["sha256"])
        for shard in shards.read_manifest(folder, corpus_records.LAYOUT)["shards"]
    ]


@pytest.fixture
def job(records_dir, tmp_path):
    return pipeline.Job(str(records_dir), str(VOCABULARY), str(tmp_path / "in_process"))


def align_all(job):
    for number in pipeline.start(job):
        pipeline.align_shard(job, number)
    return pipeline.finish(job)


def test_the_command_writes_corpus_report_and_manifest(records_dir, tmp_path, job):
    done = run_script(records_dir, tmp_path / "corpus", "--workers=2", "--correct_only")
    assert done.returncode == 0, done.stderr
    assert "8 of 15 samples aligned; dropped: {'not_correct': 7}" in done.stdout
    manifest = shards.read_manifest(tmp_path / "corpus", corpus_records.LAYOUT)
    assert manifest["complete"] is True
    assert manifest["counts"] == {"in": 15, "out": 8, "dropped": {"not_correct": 7}}
    assert [shard["rows"] for shard in manifest["shards"]] == [2, 2, 2, 2, 0]
    assert manifest["config"]["method"] == "spans"
    report = json.loads((tmp_path / "corpus" / "quality.json").read_text())
    assert report["samples"] == {
        "in": 15,
        "aligned": 8,
        "dropped": {"not_correct": 7},
        "text_differs": 0,
    }
    assert "<h2>By class of piece</h2>" in (tmp_path / "corpus" / "quality.html").read_text()
    rows = list(corpus_records.read_corpus(tmp_path / "corpus", VOCABULARY))
    assert [row.question_id for row in rows] == [f"q{n}" for n in range(12) if n % 3 != 1]


def test_fresh_samples_are_labelled_and_the_teacher_is_judged(tmp_path):
    folder = tmp_path / "records"
    fresh = [make_record(number, label=None) for number in range(3)]
    wrong = dataclasses.replace(fresh[2], sample_id=1, gold="-6")
    teacher.write_records(folder, [*fresh, wrong])
    done = run_script(folder, tmp_path / "corpus", "--correct_only")
    assert done.returncode == 0, done.stderr
    assert "75.00% of samples right, 100.00% of first samples" in done.stdout
    report = json.loads((tmp_path / "corpus" / "quality.json").read_text())
    assert report["samples"]["dropped"] == {"not_correct": 1}
    said = report["teacher"]
    assert (said["rule"], said["questions"], said["samples"]) == ("last_number", 3, 4)
    assert (said["first_sample_accuracy"], said["majority_accuracy"]) == (1.0, 1.0)
    assert said["stored_labels"]["none"] == 4
    assert "<h2>Teacher</h2>" in (tmp_path / "corpus" / "quality.html").read_text()
    rows = list(corpus_records.read_corpus(tmp_path / "corpus", correct_only=True))
    assert [(row.question_id, row.sample_id, row.label) for row in rows] == [
        ("q0", 0, True),
        ("q1", 0, True),
        ("q2", 0, True),
    ]
    # The seed's rule drops minus signs, so it finds the same answer right.
    job = pipeline.Job(str(folder), str(VOCABULARY), str(tmp_path / "seed"), correct_only=True)
    job = dataclasses.replace(job, label_rule="seed_last_number")
    assert align_all(job)["samples"]["dropped"] == {}
    with pytest.raises(ValueError, match="unknown answer rule 'last'"):
        pipeline.start(dataclasses.replace(job, label_rule="last"))


def test_processes_and_one_process_write_the_same(records_dir, tmp_path, job):
    assert run_script(records_dir, tmp_path / "corpus", "--workers=2").returncode == 0
    align_all(job)
    assert checksums(tmp_path / "corpus") == checksums(job.output)
    one, other = (
        (pathlib.Path(folder) / "quality.json").read_text()
        for folder in (tmp_path / "corpus", job.output)
    )
    assert one == other


@pytest.mark.parametrize("method", ["spans", "dtw"])
def test_beam_continues_and_writes_the_same(records_dir, tmp_path, job, method):
    pytest.importorskip("apache_beam", reason="the extra `beam` lives in an environment of its own")
    job = dataclasses.replace(job, method=method)
    align_all(job)
    on_beam = dataclasses.replace(job, output=str(tmp_path / "on_beam"))
    pipeline.start(on_beam)
    pipeline.align_shard(on_beam, 1)
    done_before = tmp_path / "on_beam" / "aligned-00001.parquet"
    written = done_before.stat().st_mtime_ns
    done = run_script(
        records_dir,
        on_beam.output,
        f"--method={method}",
        "--beam_options=runner=DirectRunner,direct_num_workers=1",
    )
    assert done.returncode == 0, done.stderr
    assert done_before.stat().st_mtime_ns == written
    assert checksums(on_beam.output) == checksums(job.output)
    one, other = (
        json.loads((pathlib.Path(folder) / "quality.json").read_text())
        for folder in (on_beam.output, job.output)
    )
    assert one == other


def test_an_interrupted_run_continues_with_the_missing_shards(records_dir, tmp_path, job):
    assert pipeline.start(job) == [0, 1, 2, 3, 4]
    for number in (0, 3):
        assert pipeline.align_shard(job, number) == 3
    (pathlib.Path(job.output) / "aligned-00001.parquet.partial").write_bytes(b"half a shard")
    with pytest.raises(shards.ShardError, match="is incomplete"):
        list(corpus_records.read_corpus(job.output))
    before = (pathlib.Path(job.output) / "aligned-00003.parquet").stat().st_mtime_ns
    assert pipeline.start(job) == [1, 2, 4]
    done = run_script(records_dir, job.output)
    assert done.returncode == 0, done.stderr
    assert (pathlib.Path(job.output) / "aligned-00003.parquet").stat().st_mtime_ns == before
    assert pipeline.start(job) == []
    assert [row.question_id for row in corpus_records.read_corpus(job.output)] == [
        f"q{n}" for n in range(15)
    ]


def test_an_output_folder_of_other_settings_is_refused(records_dir, job):
    align_all(job)
    done = run_script(records_dir, job.output, "--method=dtw")
    assert done.returncode == 1
    assert "was begun with" in done.stderr
    assert "another output folder" in done.stderr


def test_a_foreign_output_folder_is_refused(records_dir, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "data.parquet").write_bytes(b"")
    done = run_script(records_dir, tmp_path / "foreign")
    assert done.returncode == 1
    assert "holds Parquet files without a manifest" in done.stderr


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--vocab=/nowhere/spiece.model"], "no vocabulary at /nowhere/spiece.model"),
        (["--records=/nowhere"], "no manifest.json in /nowhere"),
    ],
)
def test_missing_inputs_are_named(records_dir, tmp_path, extra, message):
    done = run_script(records_dir, tmp_path / "corpus", *extra)
    assert done.returncode == 1
    assert message in done.stderr


def test_bad_and_repeated_records_are_named(tmp_path):
    folder = tmp_path / "bad"
    with shards.ShardWriter(folder, records.LAYOUT) as writer:
        writer.write(records.records_to_table([make_record(0)]))
        writer.write(records.records_to_table([make_record(0)]))
    job = pipeline.Job(str(folder), str(VOCABULARY), str(tmp_path / "out"))
    with pytest.raises(teacher.RecordError, match=r"\('q0', 0\): occurs 2 times"):
        align_all(job)
    record = make_record(1)
    negative = records.records_to_table([make_record(0)]).to_pylist()[0]
    negative["top_k_probs"][2][0] = -0.5
    folder = tmp_path / "negative"
    with shards.ShardWriter(folder, records.LAYOUT) as writer:
        writer.write(records.pa.Table.from_pylist([negative], schema=records.LAYOUT.schema))
        writer.write(records.records_to_table([record]))
    done = run_script(folder, tmp_path / "out_negative")
    assert done.returncode == 1
    assert "('q0', 0), step 2" in done.stderr


def test_dtw_counts_rejections(tmp_path):
    folder = tmp_path / "records"
    odd = make_record(1)
    teacher.write_records(
        folder, [make_record(0), teacher.TeacherRecord(**{**vars(odd), "text": "something else"})]
    )
    report = align_all(
        pipeline.Job(str(folder), str(VOCABULARY), str(tmp_path / "out"), method="dtw")
    )
    assert report["samples"]["dropped"] == {"not_the_seeds_shape": 1}
    manifest = shards.read_manifest(tmp_path / "out", corpus_records.LAYOUT)
    assert manifest["counts"] == {"in": 2, "out": 1, "dropped": {"not_the_seeds_shape": 1}}


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (lambda text: [], "10 with no tokens"),
        (lambda text: [f"token_id:{number}" for number in range(12)], "10 with token ids"),
        (lambda text: ["Quite", " another", " text"], "10 with another text"),
    ],
)
def test_records_whose_probabilities_are_lost_are_stopped_with_the_reason(tmp_path, tokens, reason):
    folder, output = tmp_path / "records", tmp_path / "aligned"
    with teacher.RecordWriter(folder) as writer:
        for number in range(10):
            record = make_record(number)
            own = tuple(tokens(record.text))
            rows = tuple(((token, 0.75),) for token in own)
            writer.write(dataclasses.replace(record, tokens=own, top_k=rows))
    job = pipeline.Job(str(folder), str(VOCABULARY), str(output))
    with pytest.raises(quality.PoorQualityError, match=rf"100\.0% of .*{reason}.*--allow_one_hot"):
        align_all(job)
    assert json.loads((output / "quality.json").read_text())["all"]["one_hot"] == 1.0
    with pytest.raises(shards.ShardError):
        shards.check_complete(output, shards.read_manifest(output, corpus_records.LAYOUT))
    report = align_all(dataclasses.replace(job, allow_one_hot_share=1.0))
    assert report["allowed_one_hot_share"] == 1.0
    shards.check_complete(output, shards.read_manifest(output, corpus_records.LAYOUT))


def test_the_command_stops_in_one_line(tmp_path):
    teacher.write_records(
        tmp_path / "records", [dataclasses.replace(make_record(1), tokens=(), top_k=())]
    )
    done = run_script(tmp_path / "records", tmp_path / "aligned")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("align: 100.0% of") and "--allow_one_hot_share" in last
    assert "Traceback" not in done.stderr
    allowed = run_script(tmp_path / "records", tmp_path / "aligned", "--allow_one_hot_share=1")
    assert allowed.returncode == 0, allowed.stderr
