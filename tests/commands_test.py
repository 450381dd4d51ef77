"""Every command answers a user's mistake in one line, without a traceback and without the noise of its libraries."""

import os
import pathlib
import subprocess
import sys

import pytest

from cotdistill_jax import command

ROOT = pathlib.Path(__file__).parents[1]
GIN = ["--gin_file=gin/experiments/arith_quickstart.gin", "--gin_file=gin/runs/finetune.gin"]
EVALUATE = ["--benchmarks=arith", "--prompt=zero_shot_cot", "--output_dir=out"]
DECODE = ["--base_url=http://127.0.0.1:9/v1", "--model=m", "--output_dir=out", "--yes"]
# Per command three mistakes: arguments, and what the last line names.
MISTAKES: dict[str, list[tuple[list[str], str]]] = {
    "-m cotdistill_jax.train": [
        (["--gin_file=no.gin"], "no.gin"),
        ([GIN[0], "--gin.MODEL_DIR='x'"], "gin/runs/finetune.gin"),
        ([*GIN, "--gin.MODEL_DIRR='x'"], "MODEL_DIR"),
        ([*GIN, "--gin.MODEL_DIR=runs/x"], "quotes"),
        ([*GIN, "--gin.MODEL_DIR='x'", "--gin.TRAIN_STEPS=20"], "WARMUP_STEPS"),
        ([*GIN, "--gin.MODEL_DIR='x'", "--gin.MIXTURE_OR_TASK_NAME='arith_al_v1'"], "arith_all_v1"),
    ],
    "-m cotdistill_jax.inference": [
        (["--checkpoint=no/run", *EVALUATE], "no/run"),
        (["--checkpoint=no/run", "--benchmarks=gsm9k", *EVALUATE[1:]], "gsm9k"),
        (["--checkpoint=no/run", "--prompt=zero", *EVALUATE[::2]], "zero"),
    ],
    "-m cotdistill_jax.report": [
        (["--run=no/run"], "no/run"),
        (["--rum=no/run"], "--run"),
        ([], "--run"),
    ],
    "scripts/align_teacher.py": [
        (["--records=no/records", "--vocab=v", "--output_dir=out"], "no/records"),
        (["--records=r", "--vocab=v", "--output_dir=out", "--method=best"], "--method"),
        (["--records=r", "--vocab=v"], "--output_dir"),
    ],
    "scripts/build_corpus.py": [
        (["--corpus=gsm8k_gold", "--tfds_data_dir=out"], "COTDISTILL_DATA_DIR"),
        (["--corpus=gsm9k"], "--aligned_dir"),
        (["--corpus=mine", "--aligned_dir=out", "--extra_ids=-1"], "--extra_ids"),
        (["--corpus=gsm8k_teacher", "--tfds_data_dir=out"], "aligned_dir"),
    ],
    "scripts/convert_checkpoint.py": [
        (["--input=no/folder", "--output=out", "--to=ours"], "no/folder"),
        (["--input=no/folder", "--output=out", "--to=theirs"], "--to"),
        (["--output=out", "--to=ours"], "--input"),
    ],
    "scripts/decode_teacher.py": [
        ([*DECODE, "--questions=no.jsonl"], "no.jsonl"),
        ([*DECODE, "--benchmark=gsm9k"], "gsm9k"),
        ([*DECODE], "--benchmark"),
        ([*DECODE, "--benchmark=arith", "--demonstration_rows=1,x"], "--demonstration_rows=1,x"),
    ],
    "scripts/decode_student.py": [
        (["--checkpoint=no/run", "--output_dir=out", "--benchmark=arith"], "no/run"),
        (["--checkpoint=no/run", "--output_dir=out", "--benchmark=gsm9k"], "gsm9k"),
        (["--output_dir=out"], "--checkpoint"),
    ],
    "scripts/download_benchmarks.py": [
        (["--data_dir=out", "--source_dir=no/folder"], "no/folder"),
        (["--data_dir=out", "extra"], "extra"),
        ([], "--data_dir"),
    ],
    "scripts/fetch_weights.py": [
        (["--source_dir=no/folder"], "no/folder"),
        (["--name=flan_t5_base"], "gs://t5-data"),
        ([], "--name"),
    ],
    "scripts/import_seed_data.py": [
        (["--processed_data=no/folder", "--output_dir=out"], "no/folder"),
        (["--transcript=no.txt", "--output_dir=out"], "no.txt"),
        (["--processed_data=no/folder"], "--output_dir"),
    ],
    "scripts/inspect_mixture.py": [
        (["--mixture=arith_al_v1"], "arith_all_v1"),
        (["--mixture=arith_all_v1", "--inputs_length=5"], "--targets_length"),
        ([], "--mixture"),
    ],
    "scripts/compile_table.py": [
        (["--only"], "--only"),
        (["--onli=xxl"], "onli"),
        (["xxl"], "xxl"),
    ],
    "scripts/plan_run.py": [
        ([GIN[0], "--compile=v5e:3x3"], "v5e:2x4"),
        (["--gin_file=no.gin"], "no.gin"),
        (["--gin_file=gin/experiments/gsm8k_teacher_xl.gin", "--mesh=fsdp=x"], "mesh"),
        ([], "--gin_file"),
    ],
    "scripts/rescore.py": [
        (["--predictions=no.jsonl"], "no.jsonl"),
        (["--predictions=no.jsonl", "--rule=x"], "--rule"),
        ([], "--predictions"),
    ],
    "scripts/cache_tasks.py": [
        (["--tasks=arith_zero_shot_co_v1", "--cache_dir=out"], "arith_zero_shot_co_v1"),
        (["--cache_dir=out"], "--tasks"),
        (["--tasks=arith_zero_shot_cot_v1"], "--cache_dir"),
    ],
    "scripts/label_samples.py": [
        (["--predictions=no.jsonl", "--output_dir=out"], "no.jsonl"),
        (["--predictions=no.jsonl"], "--output_dir"),
        (["--predictions=no.jsonl", "--output_dir=out", "--extra"], "--extra"),
    ],
    "scripts/plot_alignment.py": [
        (["--records=no/records", "--vocab=v", "--output=o.svg"], "no/records"),
        (["--records=r", "--vocab=v", "--output=o.svg", "--method=best"], "--method"),
        (["--records=r", "--vocab=v"], "--output"),
    ],
    "scripts/plot_token_probs.py": [
        (["--theme=pink", "--output=o.svg"], "--theme"),
        ([], "--output"),
        (["--records=r", "--output=o.svg", "--extra"], "--extra"),
    ],
    "scripts/rerank.py": [
        (["--verifier=no/run", "--predictions=no.jsonl", "--output_dir=out"], "no"),
        (["--predictions=no.jsonl", "--output_dir=out"], "--verifier"),
        (["--verifier=no/run", "--predictions=p", "--output_dir=out", "--extra"], "--extra"),
    ],
    "scripts/score_predictions.py": [
        (["--run=no/run"], "no/run"),
        ([], "--run"),
        (["--run=no/run", "--extra"], "--extra"),
    ],
    "scripts/reproduce_paper.py": [
        (["--size=tiny", "--release=no/folder"], "no/folder"),
        (["--size=huge", "--release=no/folder"], "--size"),
        (["--size=base", "--release=."], "no accelerator"),
        (["--size=tiny"], "--release"),
    ],
    "scripts/serve_synthetic_teacher.py": [
        (["--questions=no.jsonl"], "no.jsonl"),
        (["--port=x"], "--port"),
        (["--port=99999"], "--port"),
        (["--error_rate=2"], "--error_rate"),
    ],
    "scripts/select_checkpoint.py": [
        (["--results=no/results", "--output_dir=out"], "no/results"),
        (["--output_dir=out"], "--results"),
        (["--results=no/results", "--output_dir=out", "--extra"], "--extra"),
    ],
    "scripts/train_arith_vocab.py": [
        (["--extra"], "extra"),
        (["extra"], "extra"),
        (["--num_examples=many"], "num_examples"),
    ],
    "scripts/watch_run.py": [
        (["--run=no/run"], "no/run"),
        (["--rum=no/run"], "--run"),
        ([], "--run"),
    ],
}


def call(name, arguments, folder, **environment):
    """The command as a process, without what scripts/environment.sh sets."""
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH")
    env = {key: os.environ[key] for key in kept if key in os.environ}
    program = name.split() if name.startswith("-m") else [str(ROOT / name)]
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_line(name, tmp_path):
    for arguments, named in MISTAKES[name]:
        done = call(name, arguments, tmp_path)
        said = [line for line in done.stderr.strip().splitlines() if "--helpshort" not in line]
        where = f"{name} {arguments}: {done.stderr[-2000:]}"
        assert done.returncode not in (0, None), where
        assert "Traceback" not in done.stderr, where
        assert named in said[-1], where
        noise = [line for line in said[:-1] if "absl" in line or "oneDNN" in line or "cuda" in line]
        assert not noise, where


@pytest.mark.slow
def test_an_ascii_terminal_shows_other_characters_as_escapes(tmp_path):
    (tmp_path / "ü.jsonl").mkdir()
    arguments = ["--predictions=ü.jsonl"]
    done = call("scripts/rescore.py", arguments, tmp_path, LANG="C", PYTHONIOENCODING="ascii")
    assert "UnicodeEncodeError" not in done.stderr
    assert done.returncode == 1


def test_what_our_code_raises_on_purpose_is_one_line_and_a_bug_keeps_its_traceback(capsys):
    from cotdistill_jax import answers

    with pytest.raises(SystemExit) as ended:
        command.run(lambda: answers.extract("1", "no_rule"))
    assert str(ended.value).startswith("answers: unknown rule 'no_rule'")
    for bug in (lambda: {}["key"], lambda: int("x"), lambda: len(5)):
        with pytest.raises((KeyError, ValueError, TypeError)):
            command.run(bug)
    with pytest.raises(SystemExit) as ended:
        command.run(pathlib.Path("no/such/file").read_text)
    assert ended.value.code == "No such file or directory: no/such/file"
