"""Aligns teacher records to the student's vocabulary: writes an aligned corpus, a quality report and a manifest.

    python scripts/align_teacher.py --records=DIR --vocab=data/t5/spiece.model --output_dir=DIR --correct_only --workers=2

The report is `quality.json` and `quality.html`. Samples without a label (fresh ones of `decode_teacher`) are labelled by --label_rule,
and the report says how many samples, first samples and majority votes are right by that rule. An interrupted run continues when the same command is given again: shards that are
whole are kept. On many machines, with the extra `beam` in an environment of its own and folders that all of them see:

    python scripts/align_teacher.py ... --beam_options=runner=FlinkRunner,flink_master=HOST:8081
"""

import functools
import multiprocessing
import sys

from absl import app, flags
from tqdm import tqdm

from cotdistill_jax import answers, command
from cotdistill_jax.alignment import METHODS, pipeline

_RECORDS = flags.DEFINE_string("records", None, "Folder of teacher records.", required=True)
_VOCAB = flags.DEFINE_string(
    "vocab", None, "SentencePiece model file of the student.", required=True
)
_METHOD = flags.DEFINE_enum("method", "spans", list(METHODS), "Alignment rule.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder of the aligned corpus.", required=True
)
_TOP_K = flags.DEFINE_integer("top_k", 5, "Candidates stored per piece.", lower_bound=1)
_CORRECT_ONLY = flags.DEFINE_bool(
    "correct_only", False, "Leave out samples whose answer is not correct."
)
_LABEL_RULE = flags.DEFINE_enum(
    "label_rule",
    pipeline.DEFAULT_RULE,
    list(answers.RULES),
    "Answer rule for samples without a label, and for the teacher's accuracy.",
)
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes on this machine.", lower_bound=1)
_ALLOW_ONE_HOT_SHARE = flags.DEFINE_float(
    "allow_one_hot_share",
    None,
    "Most pieces without a teacher's probabilities, in [0, 1]; more stop. Default: far above what the method gives on good data.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_BEAM_OPTIONS = flags.DEFINE_string(
    "beam_options",
    None,
    "Run on Apache Beam with these comma-separated pipeline options, such as runner=DirectRunner.",
)


def run_here(job: pipeline.Job, numbers: list[int], workers: int) -> None:
    """Aligns the shards in this process, or in several."""
    align = functools.partial(pipeline.align_shard, job)
    with tqdm(total=len(numbers), unit="shard", desc=f"align ({job.method})") as progress:
        if workers == 1:
            for number in numbers:
                align(number)
                progress.update()
            return
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for _ in pool.imap_unordered(align, numbers):
                progress.update()


def run_on_beam(job: pipeline.Job, numbers: list[int], options: str) -> None:
    """Aligns the shards on an Apache Beam runner and waits for it."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        sys.exit(
            f"align: --beam_options needs Apache Beam ({error}). Install it in an environment of its own: pip install .[beam]"
        )
    arguments = [f"--{option}" for option in options.split(",") if option]
    with beam.Pipeline(options=PipelineOptions(arguments)) as root:
        _ = (
            root
            | "Shards" >> beam.Create(numbers)
            | "Spread" >> beam.Reshuffle()
            | "Align" >> beam.Map(functools.partial(pipeline.align_shard, job))
        )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    job = pipeline.Job(
        _RECORDS.value,
        _VOCAB.value,
        _OUTPUT_DIR.value,
        _METHOD.value,
        _TOP_K.value,
        _CORRECT_ONLY.value,
        _LABEL_RULE.value,
        _ALLOW_ONE_HOT_SHARE.value,
    )
    try:
        numbers = pipeline.start(job)
        if _BEAM_OPTIONS.value is not None:
            run_on_beam(job, numbers, _BEAM_OPTIONS.value)
        else:
            run_here(job, numbers, _WORKERS.value)
        report = pipeline.finish(job)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    samples, rows, said = report["samples"], report["all"], report["teacher"]
    print(
        f"{samples['aligned']:,} of {samples['in']:,} samples aligned; dropped: {samples['dropped'] or 'none'}"
    )
    if said["samples"]:
        print(
            f"teacher by {said['rule']}: {said['sample_accuracy']:.2%} of samples right, {said['first_sample_accuracy']:.2%} of first "
            f"samples, {said['majority_accuracy']:.2%} of majority votes, {said['questions']:,} questions"
        )
    if rows["pieces"]:
        print(f"{rows['pieces']:,} pieces, {rows['one_hot']:.2%} one-hot")
    print(f"corpus and report ({pipeline.PAGE_NAME}) in {_OUTPUT_DIR.value}")


if __name__ == "__main__":
    command.run(app.run, main)
