"""Teacher records to an aligned corpus, shard by shard, so that processes and machines can share the work.

Samples without a label get one by a named answer rule, and the teacher's accuracy by that rule goes into the quality report. Every shard of the records gives one shard of the corpus, with the same number, and beside it a JSON file with its counts. A shard is
done when its Parquet file is there: it is renamed into place last. The shards do not depend on each other, so one process, several,
and an Apache Beam runner write the same files; `finish` adds up the counts and writes the manifest and the quality report.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cotdistill_jax import answers, files
from cotdistill_jax.alignment import corpus_records, quality
from cotdistill_jax.alignment.aligner import DEFAULT_K, Aligner
from cotdistill_jax.answers import labelling
from cotdistill_jax.files import write_json_atomically
from cotdistill_jax.teacher import records, shards, spelling

QUALITY_NAME = "quality.json"
PAGE_NAME = "quality.html"
DEFAULT_RULE = "last_number"
_RECORDS_LOOKED_AT = 1000


@dataclasses.dataclass(frozen=True)
class Job:
    """One alignment of a folder of records; small, so that it can be sent to every worker.

    Attributes:
        records: folder of teacher records.
        vocabulary: SentencePiece model file of the student.
        output: folder of the corpus; all workers must see it under this path.
        method: a key of `alignment.METHODS`.
        k: candidates stored per piece.
        correct_only: leave out samples whose label is false.
        label_rule: name in `answers.RULES` of the rule that labels samples without a label and gives the teacher's accuracy.
        allow_one_hot_share: most pieces without a teacher's distribution, in [0, 1]; None for the method's `quality.MOST_ONE_HOT`.
    """

    records: str
    vocabulary: str
    output: str
    method: str = "spans"
    k: int = DEFAULT_K
    correct_only: bool = False
    label_rule: str = DEFAULT_RULE
    allow_one_hot_share: float | None = None


def start(job: Job) -> list[int]:
    """Prepares the output folder and returns the numbers of the shards that are still to do.

    Raises:
        FileNotFoundError: no records, or no vocabulary.
        records.RecordError: two records have the same (question_id, sample_id).
        shards.ShardError: incomplete records, or an output folder that was begun with other settings or other records.
        KeyError, ValueError: unknown method or rule, or a vocabulary that cannot be aligned to.
    """
    if job.label_rule not in answers.RULES:
        raise ValueError(
            f"align: unknown answer rule {job.label_rule!r}. Choose one of {', '.join(answers.RULES)}."
        )
    manifest = _records_manifest(job)
    _check_keys(job.records)
    output = files.as_path(job.output)
    config, inputs = _config(job), _inputs(manifest)
    if (output / shards.MANIFEST_NAME).exists():
        begun = shards.read_manifest(output, corpus_records.LAYOUT)
        if (begun["config"], begun["inputs"]) != (config, inputs):
            raise shards.ShardError(
                f"align: {output} was begun with {begun['config']} and {len(begun['inputs'])} shards of records, this run has {config} "
                f"and {len(inputs)} shards. Use the same settings and records, or another output folder."
            )
    elif any(output.glob("*.parquet")):
        raise shards.ShardError(
            f"align: {output} holds Parquet files without a manifest. Use another output folder."
        )
    output.mkdir(parents=True, exist_ok=True)
    left = [
        number for number in range(len(manifest["shards"])) if not _shard_path(job, number).exists()
    ]
    if left or not (output / shards.MANIFEST_NAME).exists():
        _write_manifest(job, [], {}, complete=False)
    return left


def align_shard(job: Job, number: int) -> int:
    """Labels and aligns one shard of the records, writes it, and returns the number of records in it.

    Raises:
        records.RecordError: a record with numbers that are no probabilities.
        shards.ShardError: a damaged shard.
    """
    aligner = _aligner(job.vocabulary, job.method, job.k)
    measured, statistics = quality.Quality(), labelling.Statistics(answers.RULES[job.label_rule])
    tables = [corpus_records.LAYOUT.schema.empty_table()]
    entry = _records_manifest(job)["shards"][number]
    for batch in shards.read_shard(
        files.as_path(job.records), entry, records.LAYOUT, as_dictionaries=True
    ):
        records.validate_batch(batch)
        labelled = _label(batch, statistics)
        if job.correct_only:
            labelled = labelled.filter(labelled.column("label"))
            measured.leave_out("not_correct", batch.num_rows - labelled.num_rows)
        aligned = aligner.align_records(labelled)
        measured.add(aligned, _keys(labelled), aligner.table)
        tables.append(corpus_records.to_table(labelled, aligned, aligner.k))
    counts = {"quality": measured.counts(), "teacher": statistics.counts()}
    path = _shard_path(job, number)
    write_json_atomically(path.with_suffix(".json"), counts)
    shards.write_shard(path, pa.concat_tables(tables), corpus_records.LAYOUT)
    return int(entry["rows"])


def _label(batch: pa.RecordBatch, statistics: labelling.Statistics) -> pa.RecordBatch:
    """Counts the samples of a batch and returns it with the rule's label where there was none."""
    names = ("question_id", "sample_id", "text", "gold", "label")
    columns = (batch.column(name).to_pylist() for name in names)
    labels = []
    for question_id, sample_id, text, gold, label in zip(*columns, strict=True):
        correct = statistics.add(question_id, sample_id, text, gold, label)
        labels.append(correct if label is None else label)
    place = batch.schema.get_field_index("label")
    return batch.set_column(place, batch.schema.field(place), pa.array(labels, pa.bool_()))


def finish(job: Job) -> dict[str, Any]:
    """Writes the quality report and the complete manifest and returns the report.

    Raises:
        FileNotFoundError: a shard is still to do.
        quality.PoorQualityError: most of the teacher's probabilities are lost; report and shards are written, the corpus is not
            marked complete.
    """
    output = files.as_path(job.output)
    described, measured = [], quality.Quality()
    statistics = labelling.Statistics(answers.RULES[job.label_rule])
    for number in range(len(_records_manifest(job)["shards"])):
        path = _shard_path(job, number)
        described.append(shards.describe_shard(path))
        counts = files.read_json(path.with_suffix(".json"), "align")
        measured.merge(counts["quality"])
        statistics.merge(counts["teacher"])
    report = {
        **measured.report(),
        "teacher": statistics.report(),
        "tokens": _token_kinds(job.records),
        "allowed_one_hot_share": job.allow_one_hot_share,
    }
    write_json_atomically(output / QUALITY_NAME, report)
    title = f"Alignment of {files.as_path(job.records).name} by {job.method}"
    (output / PAGE_NAME).write_text(quality.to_html(report, title), encoding="utf-8")
    quality.check_one_hot(report, job.method, job.allow_one_hot_share, job.records)
    _write_manifest(job, described, measured.dropped, complete=True)
    return report


def _token_kinds(folder: str) -> dict[str, int]:
    """Returns how many of the first records have tokens that spell their text, or what else they have."""
    found: collections.Counter[str] = collections.Counter()
    batches = shards.read_batches(folder, records.LAYOUT, columns=["tokens", "text"], verify=False)
    for batch in batches:
        for tokens, text in zip(
            *(batch.column(n).to_pylist() for n in ("tokens", "text")), strict=True
        ):
            found[spelling.kind(tokens, text) or "tokens that spell the text"] += 1
        if found.total() >= _RECORDS_LOOKED_AT:
            break
    return dict(found)


def _check_keys(folder: str) -> None:
    """Raises `RecordError` if two records have the same (question_id, sample_id)."""
    names = ["question_id", "sample_id"]
    batches = shards.read_batches(folder, records.LAYOUT, columns=names, verify=False)
    schema = pa.schema([records.LAYOUT.schema.field(name) for name in names])
    counted = pa.Table.from_batches(batches, schema).group_by(names).aggregate([([], "count_all")])
    for row in counted.filter(pc.greater(counted.column("count_all"), 1)).slice(0, 1).to_pylist():
        raise records.RecordError(
            f"teacher record {(row['question_id'], row['sample_id'])}: occurs {row['count_all']} times in {folder}. Keep one of them."
        )


def _write_manifest(
    job: Job, described: list[dict[str, Any]], dropped: dict[str, int], complete: bool
) -> None:
    shards.write_manifest(
        files.as_path(job.output),
        corpus_records.LAYOUT,
        shards=described,
        dropped=dropped,
        config=_config(job),
        inputs=_inputs(_records_manifest(job)),
        complete=complete,
    )


def _records_manifest(job: Job) -> dict[str, Any]:
    manifest = shards.read_manifest(job.records, records.LAYOUT)
    shards.check_complete(files.as_path(job.records), manifest)
    return manifest


def _inputs(manifest: dict[str, Any]) -> dict[str, str]:
    return {shard["file"]: shard["sha256"] for shard in manifest["shards"]}


def _config(job: Job) -> dict[str, Any]:
    aligner = _aligner(job.vocabulary, job.method, job.k)
    return {
        **corpus_records.config_of(aligner, job.vocabulary),
        "correct_only": job.correct_only,
        "label_rule": job.label_rule,
    }


def _shard_path(job: Job, number: int) -> files.Path:
    return files.as_path(job.output) / shards.shard_name(corpus_records.LAYOUT, number)


def _keys(batch: pa.RecordBatch) -> list[tuple[str, int]]:
    return list(
        zip(
            batch.column("question_id").to_pylist(),
            batch.column("sample_id").to_pylist(),
            strict=True,
        )
    )


@functools.lru_cache(maxsize=2)
def _aligner(vocabulary: str, method: str, k: int) -> Aligner:
    return Aligner(files.open_vocabulary(vocabulary, "align"), method, k)
