"""Imports the seed's data: its released pickles, or a transcript of its decode scripts, as teacher records and formatted examples.

    python scripts/import_seed_data.py --processed_data=processed_data --output_dir=seed
    python scripts/import_seed_data.py --transcript=train_codex_complex_total.txt --flavour=codex --output_dir=seed

writes OUTPUT_DIR/codex_records and flan_records (for scripts/align_teacher.py --records), OUTPUT_DIR/formatted/{format} (for
scripts/build_corpus.py --corpus=seed), OUTPUT_DIR/codex_aligned (the seed's own alignment of every sample), and OUTPUT_DIR/import.json: accuracies of the teacher and what was repaired. Pickles are checked
before anything in them is loaded, and loaded record by record. The same command given again continues an interrupted run.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from absl import app, flags
from tqdm import tqdm

from cotdistill_jax import answers, command, files, teacher
from cotdistill_jax.answers import labelling
from cotdistill_jax.files import file_sha256, write_json_atomically
from cotdistill_jax.teacher import (
    formatted,
    restricted_pickle,
    seed_pickles,
    seed_text,
    seed_transcripts,
    shards,
)

_PROCESSED_DATA = flags.DEFINE_string("processed_data", None, "Folder of the released pickles.")
_TRANSCRIPT = flags.DEFINE_string("transcript", None, "Text file of a decode script.")
_FLAVOUR = flags.DEFINE_enum(
    "flavour", "codex", sorted(seed_text.FLAVOURS), "Teacher that the transcript is of."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Where to write.", required=True)
_LABEL_RULE = flags.DEFINE_enum(
    "label_rule",
    "last_number",
    ["released", *(rule.name for rule in answers.MATHS_RULES)],
    "Answer rule that labels the samples; 'released' keeps the labels of the pickles.",
)
_QUESTION_PREFIX = flags.DEFINE_string(
    "question_prefix", "gsm8k/train/", "Put before a question's number to make its id."
)
_KEEP_WHOLE = flags.DEFINE_bool(
    "keep_whole",
    False,
    "Leave out invalid records and a transcript's cut-off end, counted, where they are errors otherwise.",
)
_STATISTICS_RULES = ("last_number", "seed_last_number")
_REPORT_NAME = "import.json"


def import_records(
    questions: Iterable[list[teacher.TeacherRecord]],
    folder: files.Path,
    config: dict[str, Any],
    inputs: dict[str, str],
    source: Any,
) -> dict[str, Any]:
    """Labels and writes the records of all questions; returns the teacher's statistics by rule, and counts."""
    statistics = [labelling.Statistics(answers.RULES[name]) for name in _STATISTICS_RULES]
    resume = (folder / shards.MANIFEST_NAME).exists()
    with teacher.RecordWriter(folder, config=config, inputs=inputs, resume=resume) as writer:
        for record in (record for question in questions for record in question):
            if _LABEL_RULE.value != "released":
                record = labelling.label(record, answers.RULES[_LABEL_RULE.value])
            if record.key not in writer.keys:
                try:
                    writer.write(record)
                except teacher.RecordError:
                    if not _KEEP_WHOLE.value:
                        raise
                    writer.count_dropped("invalid_record")
                    continue
            for each in statistics:
                each.add(
                    record.question_id, record.sample_id, record.text, record.gold, record.label
                )
        for reason, number in getattr(source, "dropped", {}).items():
            writer.count_dropped(reason, number)
    counts = shards.read_manifest(folder, teacher.records.LAYOUT)["counts"]
    return {"counts": counts, "statistics": [each.report() for each in statistics]}


def import_pickles(folder: files.Path, output: files.Path) -> dict[str, Any]:
    """Imports what a folder of released pickles holds."""
    found = [
        samples
        for flavour in seed_text.FLAVOURS
        if (samples := seed_pickles.SeedSamples.open(folder, flavour, _QUESTION_PREFIX.value))
    ]
    examples = [
        seed_pickles.read_formatted(folder / f"{name}.pkl")
        for name in seed_pickles.FORMATS
        if (folder / f"{name}.pkl").exists()
    ]
    if not found and not examples:
        raise FileNotFoundError(
            f"import: {folder} has no {{codex,flan}}_predictions.pkl and none of {', '.join(seed_pickles.FORMATS)}.pkl. Pass the folder "
            "processed_data of the release."
        )
    lists = [items for samples in found for items in samples.files.values()]
    _say_memory([*lists, *(each.items for each in examples)])
    report: dict[str, Any] = {}
    for samples in found:
        name = f"{samples.flavour.name}_records"
        report[name] = import_records(
            tqdm(samples, unit="question", desc=name),
            output / name,
            _config(samples.flavour),
            {items.path.name: file_sha256(items.path) for items in samples.files.values()},
            samples,
        )
        report[name]["repeated_questions_left_out"] = [
            {"position": position, "question_id": f"{_QUESTION_PREFIX.value}{number}"}
            for position, number in samples.repeated
        ]
        report[name]["labelled_right_but_rejected_by_the_seed"] = samples.rejected_by_seed
        if samples.has_aligned:
            name = f"{samples.flavour.name}_aligned"
            report[name] = import_aligned(
                samples, output / name, report[f"{samples.flavour.name}_records"]["counts"]["in"]
            )
    for each in examples:
        target = output / "formatted" / each.format
        written = formatted.write_examples(
            target,
            _valid(tqdm(each, unit="example", desc=each.format)),
            config={"format": each.format, "keep_whole": _KEEP_WHOLE.value},
            inputs={each.items.path.name: file_sha256(each.items.path)},
            resume=(target / shards.MANIFEST_NAME).exists(),
        )
        report[f"formatted/{each.format}"] = {
            "counts": {
                "in": len(each),
                "out": written,
                "dropped": {"invalid_record": len(each) - written} if written < len(each) else {},
            }
        }
    return report


def import_aligned(
    samples: seed_pickles.SeedSamples, folder: files.Path, num_samples: int
) -> dict[str, Any]:
    """Imports the seed's own alignment; returns counts."""
    used = ("codex_questions", "codex_answers")
    paths = [
        items.path
        for name, items in samples.files.items()
        if name in used or name.endswith(("_predictions", "_dtw_transformed_step_probs"))
    ]
    written = formatted.write_examples(
        folder,
        _valid(tqdm(samples.aligned(), unit="example", desc=folder.name)),
        config={"format": folder.name, "keep_whole": _KEEP_WHOLE.value},
        inputs={path.name: file_sha256(path) for path in paths},
        resume=(folder / shards.MANIFEST_NAME).exists(),
    )
    left_out = {"not_aligned_by_the_seed_or_invalid": num_samples - written}
    return {
        "counts": {
            "in": num_samples,
            "out": written,
            "dropped": left_out if written < num_samples else {},
        }
    }


def import_transcript(path: files.Path, output: files.Path) -> dict[str, Any]:
    """Imports a transcript."""
    name = f"{_FLAVOUR.value}_records"
    with tqdm(
        total=path.stat().st_size if path.exists() else 0, unit="B", unit_scale=True, desc=name
    ) as progress:
        transcript = seed_transcripts.open_transcript(
            path,
            _FLAVOUR.value,
            question_prefix=_QUESTION_PREFIX.value,
            read=progress.update,
            keep_whole=_KEEP_WHOLE.value,
        )
        report = import_records(
            transcript,
            output / name,
            _config(transcript.flavour),
            {path.name: file_sha256(path)},
            transcript,
        )
    return {name: {**report, "repaired": dict(transcript.repaired)}}


def _valid(examples: Iterable[formatted.FormattedExample]) -> Iterator[formatted.FormattedExample]:
    """Yields the examples, without the invalid ones if they are to be left out."""
    for example in examples:
        try:
            formatted.validate_example(example)
        except teacher.RecordError:
            if not _KEEP_WHOLE.value:
                raise
            continue
        yield example


def _config(flavour: seed_text.Flavour) -> dict[str, Any]:
    settings = {
        "label_rule": _LABEL_RULE.value,
        "question_prefix": _QUESTION_PREFIX.value,
        "keep_whole": _KEEP_WHOLE.value,
    }
    return {"teacher": flavour.teacher, **settings}


def _say_memory(lists: list[restricted_pickle.PickledList]) -> None:
    """Prints the size of every file and what importing it needs, before it begins."""
    for items in lists:
        size, needed = os.path.getsize(items.path) / 2**20, items.bytes_needed / 2**20
        print(
            f"{items.path.name}: {size:,.1f} MiB, {len(items):,} records, checked; about {needed:,.1f} MiB of memory for the largest"
        )


def _print(report: dict[str, Any]) -> None:
    for name, part in report.items():
        counts = part["counts"]
        print(
            f"{name}: {counts['in']:,} in, {counts['out']:,} out, dropped: {counts['dropped'] or 'none'}"
        )
        for kind in (
            "repeated_questions_left_out",
            "repaired",
            "labelled_right_but_rejected_by_the_seed",
        ):
            if part.get(kind):
                print(f"  {kind}: {part[kind]}")
        for each in part.get("statistics", ()):
            print(
                f"  by {each['rule']}: first sample {each['first_sample_accuracy']:.2%}, majority of {each['samples']:,} samples "
                f"{each['majority_accuracy']:.2%} of {each['questions']:,} questions"
            )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    if (_PROCESSED_DATA.value is None) == (_TRANSCRIPT.value is None):
        raise app.UsageError("give either --processed_data or --transcript")
    if _TRANSCRIPT.value and _LABEL_RULE.value == "released":
        raise app.UsageError(
            "a transcript has no released labels; choose an answer rule as --label_rule"
        )
    source, output = (
        files.as_path(_PROCESSED_DATA.value or str(_TRANSCRIPT.value)),
        files.as_path(_OUTPUT_DIR.value),
    )
    try:
        report = (import_transcript if _TRANSCRIPT.value else import_pickles)(source, output)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    write_json_atomically(output / _REPORT_NAME, report)
    _print(report)


if __name__ == "__main__":
    command.run(app.run, main)
