"""Measures the alignment rules against a pure-Python reference on real samples, in one run.

    python scripts/benchmark_alignment.py --data_dir=DIR --workers=2

The reference is the seed's rule as the original writes it: a numpy matrix filled cell by cell with an edit-distance package, one process.
Ours align the same samples, repeated, from Arrow batches as the record reader yields them, to compact arrays. What is done once (loading
tables, compiling) is timed apart. The folder needs `t5/spiece.model` and `codex/gsm8k_train_0_top5.json`.
"""

import collections
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
import pyarrow as pa
import sentencepiece
from absl import app, flags
from rapidfuzz.distance import Levenshtein

from cotdistill_jax import alignment, command, teacher
from cotdistill_jax.teacher import records, shards

DATA_DIR = flags.DEFINE_string(
    "data_dir", os.environ.get("COTDISTILL_DATA_DIR"), "Folder with t5/ and codex/."
)
WORKERS = flags.DEFINE_integer("workers", 2, "Processes that align.")
REPEAT = flags.DEFINE_integer(
    "repeat", 400, "How often the real samples are repeated for our rules."
)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements per rule; the median counts.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the numbers.")

_REFERENCE_REPEAT = 8

Sample = tuple[list[str], list[list[tuple[str, float]]], str]
_worker: dict[str, alignment.Aligner] = {}
_batches: list[pa.RecordBatch] = []


def load_samples(data_dir: pathlib.Path) -> list[Sample]:
    """Returns the real samples as (tokens, top_k, text), without the steps around the answer."""
    content = json.loads(
        (data_dir / "codex" / "gsm8k_train_0_top5.json").read_text(encoding="utf-8")
    )
    samples = []
    for steps in content["samples"]:
        answer = [[(token, prob) for token, prob in step] for step in steps[2:-2]]
        tokens = [step[0][0] for step in answer]
        samples.append((tokens, answer, "".join(tokens)))
    return samples


def align_by_reference(
    sample: Sample, processor: sentencepiece.SentencePieceProcessor
) -> list[dict[str, float]]:
    """Returns the candidates of every piece by the seed's rule with a whole matrix."""
    tokens, top_k, text = sample
    pieces = processor.encode(text.strip(), out_type=str)
    cost = np.full((len(tokens) + 1, len(pieces) + 1), np.inf)
    cost[0, 0] = 0
    for i, token in enumerate(tokens):
        for j, piece in enumerate(pieces):
            distance = Levenshtein.distance(token.replace(" ", ""), piece.replace("▁", ""))
            cost[i + 1, j + 1] = distance + min(cost[i, j + 1], cost[i + 1, j], cost[i, j])
    paired: list[list[int]] = [[] for _ in pieces]
    i, j = len(tokens), len(pieces)
    paired[j - 1].append(i - 1)
    while i > 1 or j > 1:
        move = int(np.argmin([cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]]))
        i, j = i - (move != 2), j - (move != 1)
        paired[j - 1].append(i - 1)
    rows = []
    for piece, steps in zip(pieces, paired, strict=True):
        row = {piece: 1.0}
        if len(steps) == 1 and tokens[steps[0]].replace(" ", "▁") == piece:
            row = {}
            for token, prob in top_k[steps[0]]:
                name = token.replace(" ", "▁")
                if processor.piece_to_id(name) != processor.unk_id():
                    row.setdefault(name, prob)
        rows.append(row)
    return rows


def read_batches(samples: list[Sample], repeat: int) -> list[pa.RecordBatch]:
    """Returns the repeated samples as the record reader yields them."""
    with tempfile.TemporaryDirectory() as folder:
        with teacher.RecordWriter(folder) as writer:
            for number in range(repeat):
                for index, (tokens, top_k, text) in enumerate(samples):
                    record = teacher.TeacherRecord(
                        question_id=f"q{index}",
                        sample_id=number,
                        question="",
                        gold="72",
                        text=text,
                        tokens=tuple(tokens),
                        top_k=tuple(map(tuple, top_k)),
                        label=True,
                        teacher="code-davinci-002",
                    )
                    writer.write(record)
        entries = shards.read_manifest(folder, records.LAYOUT)["shards"]
        reader = (
            shards.read_shard(pathlib.Path(folder), entry, records.LAYOUT, as_dictionaries=True)
            for entry in entries
        )
        return list(itertools.chain.from_iterable(reader))


def start_worker(model: str, batches: list[pa.RecordBatch]) -> None:
    """Prepares a process: the batches it aligns and one aligner per rule, warmed up."""
    _batches.extend(batches)
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    for method in alignment.METHODS:
        _worker[method] = alignment.Aligner(processor, method)
        align_share((method, [0]))


def align_share(work: tuple[str, list[int]]) -> tuple[int, float]:
    """Aligns the numbered batches in this process; returns the number of samples and the CPU seconds they took."""
    method, numbers = work
    aligner = _worker[method]
    begin = time.process_time()
    done = sum(len(list(aligner.align_records(_batches[number]).compact())) for number in numbers)
    return done, time.process_time() - begin


def measure(
    samples: list[Sample], batches: list[pa.RecordBatch], model: str
) -> dict[str, dict[str, float]]:
    """Returns, for the reference and each rule, the median samples per second of the wall clock and of a CPU."""
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    shares = [list(range(worker, len(batches), WORKERS.value)) for worker in range(WORKERS.value)]
    wall: dict[str, list[float]] = collections.defaultdict(list)
    cpu: dict[str, list[float]] = collections.defaultdict(list)
    context = multiprocessing.get_context("spawn")
    with context.Pool(WORKERS.value, start_worker, (model, batches)) as pool:
        for _ in range(ROUNDS.value):  # interleaved, so that a busy machine slows all alike
            begin, begin_cpu = time.perf_counter(), time.process_time()
            for sample in samples * _REFERENCE_REPEAT:
                align_by_reference(sample, processor)
            done = len(samples) * _REFERENCE_REPEAT
            wall["reference"].append(done / (time.perf_counter() - begin))
            cpu["reference"].append(done / (time.process_time() - begin_cpu))
            for method in alignment.METHODS:
                begin = time.perf_counter()
                results = pool.map(align_share, [(method, share) for share in shares], chunksize=1)
                wall[method].append(
                    sum(done for done, _ in results) / (time.perf_counter() - begin)
                )
                cpu[method].append(
                    sum(done for done, _ in results) / sum(seconds for _, seconds in results)
                )
    return {
        name: {"wall": statistics.median(wall[name]), "cpu": statistics.median(cpu[name])}
        for name in wall
    }


def first_call_seconds(batch: pa.RecordBatch, model: str) -> dict[str, float]:
    """Returns how long each rule takes to load its tables, to compile if it was not compiled before, and to align one batch."""
    seconds = {}
    for method in alignment.METHODS:
        begin = time.perf_counter()
        alignment.Aligner(
            sentencepiece.SentencePieceProcessor(model_file=model), method
        ).align_records(batch)
        seconds[method] = time.perf_counter() - begin
    return seconds


def main(argv: list[str]) -> None:
    """Prints and writes the numbers."""
    del argv
    if not DATA_DIR.value:
        raise app.UsageError(
            "--data_dir or COTDISTILL_DATA_DIR must name the folder with t5/ and codex/."
        )
    data_dir = pathlib.Path(DATA_DIR.value)
    model = str(data_dir / "t5" / "spiece.model")
    samples = load_samples(data_dir)
    batches = read_batches(samples, REPEAT.value)
    warm_up = first_call_seconds(batches[0], model)
    rates = measure(samples, batches, model)
    print(
        f"{len(samples)} samples of {statistics.mean(len(sample[0]) for sample in samples):.0f} tokens"
    )
    print(f"{'':<11}{'wall clock':>24}{'one CPU':>24}{'first call':>14}")
    for name, rate in rates.items():
        times = {clock: rate[clock] / rates["reference"][clock] for clock in rate}
        columns = "".join(f"{rate[clock]:>12,.0f}/s {times[clock]:>7.0f} x " for clock in rate)
        processes = WORKERS.value if name in warm_up else 1
        print(f"{name:<11}{columns}{warm_up.get(name, 0.0):>11.1f} s   ({processes} processes)")
    if OUTPUT.value:
        result = {
            "samples_per_second": rates,
            "first_call_seconds": warm_up,
            "workers": WORKERS.value,
        }
        pathlib.Path(OUTPUT.value).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command.run(app.run, main)
