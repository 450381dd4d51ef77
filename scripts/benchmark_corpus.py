"""Measures a full-size corpus: writing and reading teacher records, unpickling the same content, and aligning with flat memory.

    python scripts/benchmark_corpus.py --data_dir=DIR --work_dir=/tmp/full --num_samples=323810 --workers=2

The samples are synthesised from the real ones in `codex/`: two answers joined to about 90 tokens, with other numbers and probabilities.
Unpickling is measured on a part and given per sample, as everything is; it needs Python objects for all of the content at once.
"""

import gc
import json
import os
import pathlib
import pickle
import random
import resource
import subprocess
import sys
import time

from absl import app, flags
from tqdm import tqdm

from cotdistill_jax import command, teacher
from cotdistill_jax.teacher import records, shards

DATA_DIR = flags.DEFINE_string(
    "data_dir", os.environ.get("COTDISTILL_DATA_DIR"), "Folder with t5/ and codex/."
)
WORK_DIR = flags.DEFINE_string(
    "work_dir", None, "New folder for records and corpus.", required=True
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 323_810, "Samples to synthesise; the seed's number by default."
)
WORKERS = flags.DEFINE_integer("workers", 2, "Processes that align.")
METHOD = flags.DEFINE_enum("method", "spans", ["spans", "dtw"], "Alignment rule.")

_SAMPLES_PER_QUESTION = 45
_UNPICKLED_SAMPLES = 4096
_NEWLINE = [("\n", 0.98), (" ", 0.01), (".", 0.005), ("!", 0.0001), (",", 0.0002)]

Steps = list[list[tuple[str, float]]]


def synthesise(number: int, answers: list[Steps], draw: random.Random) -> teacher.TeacherRecord:
    """Returns a sample made of two real answers, its probabilities lowered a little and its other numbers changed."""
    steps = [*draw.choice(answers)[:-4], _NEWLINE, *draw.choice(answers)]
    top_k = []
    for step in steps:
        sampled, less = step[0][0], draw.randrange(100) / 10_000
        row = {}
        for token, prob in step:
            digits = token != sampled and token.strip().isdigit()
            name = f" {draw.randrange(100)}" if digits and draw.random() < 0.3 else token
            row.setdefault(name, max(0.0, round(prob - less, 4)))
        top_k.append(tuple(row.items()))
    tokens = tuple(row[0][0] for row in top_k)
    return teacher.TeacherRecord(
        question_id=f"q{number // _SAMPLES_PER_QUESTION}",
        sample_id=number % _SAMPLES_PER_QUESTION,
        question="Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.",
        gold="72",
        text="".join(tokens),
        tokens=tokens,
        top_k=tuple(top_k),
        label=True,
        teacher="synthesised from code-davinci-002",
    )


def load_answers(data_dir: pathlib.Path) -> list[Steps]:
    """Returns the steps of the real answers, the sampled token first in each."""
    content = json.loads(
        (data_dir / "codex" / "gsm8k_train_0_top5.json").read_text(encoding="utf-8")
    )
    return [
        [[(token, prob) for token, prob in step] for step in steps[2:-2]]
        for steps in content["samples"]
    ]


def write(folder: pathlib.Path, num_samples: int, answers: list[Steps]) -> None:
    """Writes the records, or keeps those of an earlier run."""
    draw = random.Random(0)
    with teacher.RecordWriter(folder, config={"num_samples": num_samples}) as writer:
        for number in tqdm(range(num_samples), unit="sample", desc="write records"):
            writer.write(synthesise(number, answers, draw))


def seconds_to_read(folder: pathlib.Path) -> float:
    """Returns how long it takes to read all columns of all records."""
    begin = time.perf_counter()
    for entry in shards.read_manifest(folder, records.LAYOUT)["shards"]:
        for _ in shards.read_shard(folder, entry, records.LAYOUT, as_dictionaries=True):
            pass
    return time.perf_counter() - begin


def seconds_to_unpickle(folder: pathlib.Path, num_samples: int) -> float:
    """Returns how long it takes to unpickle steps and texts of the first samples, as lists like the seed's."""
    content = []
    for record in teacher.read_records(folder):
        content.append(
            (record.question, record.gold, record.text, [list(row) for row in record.top_k])
        )
        if len(content) == num_samples:
            break
    pickled = pickle.dumps(content)
    del content
    gc.collect()
    begin = time.perf_counter()
    pickle.loads(pickled)
    return time.perf_counter() - begin


def main(argv: list[str]) -> None:
    """Prints the numbers as JSON."""
    del argv
    if not DATA_DIR.value:
        raise app.UsageError(
            "--data_dir or COTDISTILL_DATA_DIR must name the folder with t5/ and codex/."
        )
    data_dir, work_dir = pathlib.Path(DATA_DIR.value), pathlib.Path(WORK_DIR.value)
    folder, num_samples = work_dir / "records", NUM_SAMPLES.value
    if not (folder / shards.MANIFEST_NAME).exists():
        write(folder, num_samples, load_answers(data_dir))
    command = [sys.executable, str(pathlib.Path(__file__).with_name("align_teacher.py"))]
    command += [
        f"--records={folder}",
        f"--output_dir={work_dir / METHOD.value}",
        f"--method={METHOD.value}",
    ]
    command += [f"--vocab={data_dir / 't5' / 'spiece.model'}", f"--workers={WORKERS.value}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    align_seconds = time.perf_counter() - begin
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unpickled = min(_UNPICKLED_SAMPLES, num_samples)
    per_sample = {
        "read": seconds_to_read(folder) / num_samples * 1e6,
        "unpickle": seconds_to_unpickle(folder, unpickled) / unpickled * 1e6,
        "align": align_seconds / num_samples * 1e6,
    }
    result = {
        "num_samples": num_samples,
        "align_seconds": align_seconds,
        "align_workers": WORKERS.value,
        "peak_mib_of_a_process": peak_kib / 1024,
        "microseconds_per_sample": per_sample,
        "reading_times_unpickling": per_sample["unpickle"] / per_sample["read"],
        "bytes_per_record": sum(path.stat().st_size for path in folder.iterdir()) / num_samples,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    command.run(app.run, main)
