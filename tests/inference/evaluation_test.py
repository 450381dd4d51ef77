"""Whole evaluations of a tiny random network: files, resuming, refusals, many checkpoints, meshes."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import serialization

from cotdistill_jax import benchmarks, checkpoints, corpus, inference, network
from cotdistill_jax.inference import __main__ as command
from cotdistill_jax.inference import (
    evaluation,
    generation,
    lengths,
    planning,
    predictions,
    selection,
    vocabulary,
)

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
LIMITS = {"max_new_tokens": 8, "batch_size": 4, "num_examples": 10, "progress": False}


class NoData:
    def save(self, filename):
        pathlib.Path(filename).write_text("")

    def restore(self, filename):
        pathlib.Path(filename).read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with the steps 1 and 2 of two random networks."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    checkpoints.write_model_files(folder, CONFIG, corpus.arith_vocabulary(), extra_ids=0)
    with checkpoints.TrainCheckpoints(folder) as saved:
        for step in (1, 2):
            params = checkpoints.init_variables(CONFIG, jax.random.key(step))["params"]
            saved.save(checkpoints.TrainState(np.int32(step), params, {}), NoData())
            saved.wait()
    return folder


@pytest.fixture(scope="module")
def model(run):
    return checkpoints.load_model(run)


def evaluate(model, folder, prompts=("zero_shot_cot",), names=("arith",), **changes):
    return inference.evaluate(model, names, prompts, folder, **{**LIMITS, **changes})


def answers_by_id(folder, key="arith.zero_shot_cot"):
    found = predictions.read(folder / "predictions" / f"{key}.jsonl")
    return {p.id: (p.text, p.num_tokens) for p in found}


def test_an_evaluation_writes_predictions_results_and_manifest(model, tmp_path):
    found = evaluate(model, tmp_path, ["zero_shot_cot", "answer_only_4_cases"])
    assert [(r.benchmark, r.prompt) for r in found] == [
        ("arith", "zero_shot_cot"),
        ("arith", "answer_only_4_cases"),
    ]
    assert found[0].score.n == 10 and set(found[0].scores) == set(inference.rules_for("arith"))
    assert sorted(inference.read_results(tmp_path), key=lambda r: r.prompt) == sorted(
        found, key=lambda r: r.prompt
    )
    questions = benchmarks.load("arith")[:10]
    written = predictions.read(tmp_path / "predictions" / "arith.zero_shot_cot.jsonl")
    assert [(p.id, p.question, p.gold) for p in written] == [
        (q.id, q.question, q.gold) for q in questions
    ]
    assert all(p.log_prob < 0 and 1 <= p.num_tokens <= 8 for p in written)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["config"]["step"], manifest["config"]["dtype"]) == (2, "float32")
    assert manifest["config"]["network"]["emb_dim"] == 16
    assert manifest["predictions"]["arith.answer_only_4_cases"]["counts"] == {
        "in": 10,
        "samples": 1,
        "out": 10,
        "prompts_with_demonstrations_left_out": 0,
        "prompts_cut": 0,
        "own_demonstration_left_out": 0,
        "unfinished": found[1].unfinished,
    }


def test_the_predictions_are_the_networks_own(model, tmp_path):
    """One prompt at a time, by the plain network without cache, batch or padding."""
    evaluate(model, tmp_path, num_examples=2)
    words = vocabulary.Vocabulary(model.vocabulary_file)

    @jax.jit
    def log_probs_of(params, inputs, given):
        logits = network.Transformer(CONFIG).apply(
            {"params": params},
            inputs,
            given,
            jax.numpy.ones_like(given),
            enable_dropout=False,
        )
        return jax.nn.log_softmax(logits[0])

    for p in predictions.read(tmp_path / "predictions" / "arith.zero_shot_cot.jsonl"):
        inputs = np.array([words.encode(f"Q: {p.question}\nLet's think step by step")])
        tokens, log_prob = [0], 0.0
        while len(tokens) <= 8 and tokens[-1] != 1:
            given = np.pad([tokens], ((0, 0), (0, 9 - len(tokens))))
            log_probs = log_probs_of(model.params, inputs, given)[len(tokens) - 1]
            tokens.append(int(log_probs.argmax()))
            log_prob += float(log_probs[tokens[-1]])
        assert p.text == words.decode(tokens[1:])
        assert (p.num_tokens, p.finished) == (len(tokens) - 1, tokens[-1] == 1)
        assert p.log_prob == pytest.approx(log_prob, abs=1e-4)


def test_the_texts_do_not_depend_on_the_batch_size(model, tmp_path):
    evaluate(model, tmp_path / "a", num_examples=4, batch_size=4)
    evaluate(model, tmp_path / "b", num_examples=4, batch_size=3)
    assert answers_by_id(tmp_path / "a") == answers_by_id(tmp_path / "b")


def test_an_interrupted_run_goes_on_without_repeating(model, tmp_path, monkeypatch):
    evaluate(model, tmp_path / "whole")
    append = predictions.PredictionWriter.append

    def append_then_die(self, batch):
        append(self, batch)
        if len(self.done) >= 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predictions.PredictionWriter, "append", append_then_die)
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, tmp_path / "cut")
    path = tmp_path / "cut" / "predictions" / "arith.zero_shot_cot.jsonl"
    assert not (tmp_path / "cut" / "results.json").exists()
    path.write_bytes(path.read_bytes()[:-5])  # and the last line is torn
    kept = predictions.read(path)
    assert len(kept) == 4

    asked = []
    answers = generation.Generator.answers

    def counted(self, prompts):
        asked.append(len(prompts))
        return answers(self, prompts)

    monkeypatch.setattr(generation.Generator, "answers", counted)
    found = evaluate(model, tmp_path / "cut")
    assert asked == [6]
    assert found[0].score.n == 10
    assert answers_by_id(tmp_path / "cut") == answers_by_id(tmp_path / "whole")
    ids = [q.id for q in benchmarks.load("arith")[:10]]
    assert [p.id for p in predictions.read(path)] == ids
    evaluate(model, tmp_path / "cut")
    assert asked == [6, 0]


def test_other_settings_are_refused_before_anything_is_written(model, tmp_path):
    evaluate(model, tmp_path)
    before = (tmp_path / "predictions" / "arith.zero_shot_cot.jsonl").read_bytes()
    with pytest.raises(ValueError, match="max_new_tokens is 8, now 9"):
        evaluate(model, tmp_path, max_new_tokens=9)
    with pytest.raises(ValueError, match=r"arith\.zero_shot_cot: num_questions is 10, now 11"):
        evaluate(model, tmp_path, num_examples=11)
    other = dataclasses.replace(model, path=model.path.with_name("checkpoint_1"), step=1)
    with pytest.raises(ValueError, match=r"checkpoint_sha256 is '.*', now '.*'; step is 2, now 1"):
        evaluate(other, tmp_path)
    assert (tmp_path / "predictions" / "arith.zero_shot_cot.jsonl").read_bytes() == before


def test_long_prompts(model, tmp_path):
    with pytest.raises(
        ValueError, match=r"10 of 10 prompts \(cot_4_cases\) are longer than .* = 200"
    ):
        evaluate(model, tmp_path, ["cot_4_cases"], max_input_tokens=200)
    assert not tmp_path.joinpath("manifest.json").exists()
    evaluate(model, tmp_path, ["cot_4_cases"], max_input_tokens=200, on_long_prompt="truncate")
    counts = json.loads((tmp_path / "manifest.json").read_text())["predictions"][
        "arith.cot_4_cases"
    ]["counts"]
    assert (counts["prompts_with_demonstrations_left_out"], counts["prompts_cut"]) == (10, 0)


def test_a_model_that_gives_nan_is_refused(model, tmp_path):
    broken = dataclasses.replace(
        model, params=jax.tree.map(lambda leaf: leaf * math.nan, model.params)
    )
    with pytest.raises(ValueError, match=r"checkpoint_2 gives probabilities that are not finite"):
        evaluate(broken, tmp_path)
    assert answers_by_id(tmp_path) == {}


def test_the_plan_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="unknown benchmark 'gsm9k'; allowed: arith, gsm8k"):
        inference.plan(["gsm9k"], ["zero_shot_cot"])
    with pytest.raises(ValueError, match="arith has no split 'dev'; allowed: train, validation"):
        inference.plan(["arith:dev"], ["zero_shot_cot"])
    with pytest.raises(ValueError, match="expected at least one benchmark and one prompt"):
        inference.plan(["arith"], [])
    with pytest.raises(ValueError, match="num_examples must be at least 1, got 0"):
        inference.plan(["arith"], ["zero_shot_cot"], num_examples=0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.txt").write_text("Solve.")
    files = [f"file:{tmp_path / name / 'p.txt'}" for name in ("a", "b")]
    with pytest.raises(ValueError, match="of different names"):
        inference.plan(["arith"], files)


def test_the_plan_of_arith():
    (test, validation) = inference.plan(
        ["arith:test", "arith:validation", "arith"], ["zero_shot_cot"], num_examples=2
    )
    assert (test.benchmark, test.key) == ("arith", "arith.zero_shot_cot")
    assert (validation.benchmark, validation.key) == (
        "arith:validation",
        "arith-validation.zero_shot_cot",
    )
    assert [q.id for q in test.questions] == ["arith/test/0", "arith/test/1"]
    assert test.settings["questions_sha256"] != validation.settings["questions_sha256"]
    assert test.settings["prompt_sha256"] == validation.settings["prompt_sha256"]


def test_run_with_more_logits_than_its_vocabulary_has_pieces_is_loaded_with_no_other(tmp_path):
    wide = dataclasses.replace(CONFIG, vocab_size=1024)
    checkpoints.write_model_files(tmp_path, wide, corpus.arith_vocabulary(), extra_ids=0)
    with checkpoints.TrainCheckpoints(tmp_path) as saved:
        params = checkpoints.init_variables(wide, jax.random.key(0))["params"]
        saved.save(checkpoints.TrainState(np.int32(1), params, {}), NoData())
        saved.wait()
    (chosen,) = selection.select(str(tmp_path))
    assert selection.load(chosen).config.vocab_size == 1024
    with pytest.raises(ValueError, match="512 pieces and 0 extra ids, but the model has 1024"):
        selection.load(chosen, corpus.arith_vocabulary())


def test_a_vocabulary_is_needed(model, tmp_path):
    absent = dataclasses.replace(model, vocabulary_file=tmp_path / "spiece.model")
    with pytest.raises(FileNotFoundError, match=r"vocabulary .*spiece\.model does not exist"):
        evaluate(absent, tmp_path / "out")
    (tmp_path / "spiece.model").write_text("text")
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        evaluate(absent, tmp_path / "out")


def test_samples_are_voted_on_and_can_be_added_to(model, tmp_path):
    two = planning.Sampling(2, temperature=1.5, seed=3)
    found = evaluate(model, tmp_path, num_examples=4, sampling=two)
    assert [r.prompt for r in found] == ["zero_shot_cot@1", "zero_shot_cot@2"]
    path = tmp_path / "predictions" / "arith.zero_shot_cot.samples.jsonl"
    before = predictions.read(path)
    ids = [f"arith/test/{row}" for row in range(4)]
    assert [p.key for p in before] == [(id_, sample) for id_ in ids for sample in range(2)]
    assert len({p.text for p in before}) == 8  # drawn, and anew for every sample

    found = evaluate(
        model, tmp_path, num_examples=4, sampling=dataclasses.replace(two, num_samples=3)
    )
    assert [r.prompt for r in found] == [f"zero_shot_cot@{k}" for k in (1, 2, 3)]
    after = predictions.read(path)
    assert [p for p in after if p.sample_id < 2] == before and len(after) == 12
    evaluate(model, tmp_path, num_examples=4)  # greedy decoding has a file of its own
    assert {r.prompt for r in inference.read_results(tmp_path)} == {
        "zero_shot_cot",
        *(f"zero_shot_cot@{k}" for k in (1, 2, 3)),
    }
    with pytest.raises(ValueError, match=r"sampling\.temperature is 1\.5, now 0\.7"):
        evaluate(model, tmp_path, num_examples=4, sampling=planning.Sampling(2, seed=3))


def test_bad_sampling_leaves_no_trace(model, tmp_path):
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        planning.Sampling(0)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        evaluate(model, tmp_path, sampling=planning.Sampling(2, temperature=0.0))
    assert not any(tmp_path.iterdir())


def flags(run, folder, *more):
    return [
        f"--checkpoint={run}",
        "--benchmarks=arith",
        "--prompt=zero_shot_cot",
        f"--output_dir={folder}",
        "--num_examples=5",
        "--max_new_tokens=8",
        "--batch_size=4",
        "--compilation_cache_dir=",
        *more,
    ]


def test_the_command_evaluates_the_latest_step(run, tmp_path, capsys):
    command.main(flags(run, tmp_path))
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["checkpoint"] == str(run / "checkpoint_2")
    assert "checkpoint_2: done" in printed and "arith      zero_shot_cot  5" in printed
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 2


def test_the_command_skips_finished_checkpoints(run, tmp_path, capsys, monkeypatch):
    command.main(flags(run, tmp_path, "--steps=2"))
    loaded = []
    load = selection.open_model
    monkeypatch.setattr(
        selection, "open_model", lambda one, vocab: loaded.append(one.path) or load(one, vocab)
    )
    command.main(flags(run, tmp_path, "--steps=all"))
    assert [path.name for path in loaded] == ["checkpoint_1"]
    printed = capsys.readouterr().out
    assert "checkpoint_1: done" in printed and "checkpoint_2: finished before" in printed
    steps = {
        path.parent.name: json.loads(path.read_text())["step"]
        for path in tmp_path.glob("*/results.json")
    }
    assert steps == {"checkpoint_1": 1, "checkpoint_2": 2}
    with pytest.raises(ValueError, match="dtype is 'float32', now 'bfloat16'"):
        command.main(flags(run, tmp_path, "--steps=2", "--dtype=bfloat16"))


def test_a_run_trained_again_is_not_taken_for_the_old_one(run, tmp_path, capsys):
    copied = shutil.copytree(run, tmp_path / "copied")
    command.main(flags(copied, tmp_path / "out"))
    moved = copied.rename(tmp_path / "moved")
    command.main(flags(moved, tmp_path / "out"))
    assert "checkpoint_2: finished before" in capsys.readouterr().out
    shutil.rmtree(moved / "checkpoint_2")
    shutil.copytree(moved / "checkpoint_1", moved / "checkpoint_2")
    with pytest.raises(ValueError, match="made with other settings: checkpoint_sha256 is"):
        command.main(flags(moved, tmp_path / "out"))


def test_models_in_memory_are_told_apart(model, tmp_path):
    before = dataclasses.replace(model, path=tmp_path / "untrained", step=0)
    (found,) = evaluate(before, tmp_path / "out", num_examples=1)
    assert found.score.n == 1
    other = dataclasses.replace(before, params=jax.tree.map(lambda x: x + 1, model.params))
    with pytest.raises(ValueError, match="checkpoint_sha256 is"):
        evaluate(other, tmp_path / "out", num_examples=1)


def test_bfloat16(run, tmp_path):
    command.main(flags(run, tmp_path, "--dtype=bfloat16", "--num_examples=1"))
    assert len(answers_by_id(tmp_path)) == 1
    assert json.loads((tmp_path / "manifest.json").read_text())["config"]["dtype"] == "bfloat16"


def test_eight_bit_weights_are_recorded(run, tmp_path):
    command.main(flags(run, tmp_path, "--weights=int8_dynamic"))
    assert (
        json.loads((tmp_path / "manifest.json").read_text())["config"]["weights"] == "int8_dynamic"
    )
    assert len(answers_by_id(tmp_path)) == 5
    with pytest.raises(ValueError, match="weights is 'int8_dynamic', now 'float'"):
        command.main(flags(run, tmp_path))


def test_a_mesh_gives_the_same_texts(run, model, tmp_path):
    evaluate(model, tmp_path / "one", num_examples=5)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "cotdistill_jax.inference",
            *flags(run, tmp_path / "four", "--mesh=2,2"),
        ],
        check=True,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
    )
    assert answers_by_id(tmp_path / "four") == answers_by_id(tmp_path / "one")


def test_a_huggingface_folder(run, model, tmp_path):
    folder = tmp_path / "hf"
    checkpoints.huggingface.write(folder, CONFIG, model.params, model.vocabulary_file)
    command.main(flags(folder, tmp_path / "out"))
    command.main(flags(run, tmp_path / "ours"))
    assert answers_by_id(tmp_path / "out") == answers_by_id(tmp_path / "ours")
    (folder / "spiece.model").unlink()
    with pytest.raises(FileNotFoundError, match=r"hf has no spiece\.model; pass --vocab=FILE"):
        command.main(flags(folder, tmp_path / "again"))
    command.main(flags(folder, tmp_path / "again", f"--vocab={model.vocabulary_file}"))
    assert answers_by_id(tmp_path / "again") == answers_by_id(tmp_path / "out")


def test_t5x_checkpoints_old_and_new(run, model, tmp_path):
    """The legacy layout, as folder and as one file; and Orbax's, as `TrainCheckpoints` writes it, without the files that
    make it ours."""
    checkpoints.t5x_legacy.write(str(tmp_path / "legacy/checkpoint_2"), model.params, 2)
    (tmp_path / "single").mkdir()
    whole = {"target": model.params, "state": {"step": np.int32(2)}}
    packed = serialization.msgpack_serialize({"version": 3, "optimizer": whole})
    (tmp_path / "single/checkpoint_2").write_bytes(packed)
    (tmp_path / "orbax").mkdir()
    shutil.copytree(run / "checkpoint_2", tmp_path / "orbax/checkpoint_2")
    command.main(flags(run, tmp_path / "ours"))
    vocab = f"--vocab={model.vocabulary_file}"
    for layout, name in (("legacy", ""), ("orbax", ""), ("single", "checkpoint_2")):
        path = tmp_path / layout / name
        with pytest.raises(FileNotFoundError, match=r"checkpoint_2 has no spiece\.model"):
            command.main(flags(path, tmp_path / "out" / layout))
        command.main(flags(path, tmp_path / "out" / layout, vocab))
        assert answers_by_id(tmp_path / "out" / layout) == answers_by_id(tmp_path / "ours")
        content = json.loads((tmp_path / "out" / layout / "results.json").read_text())
        assert content["step"] == 2


def test_scanned_layers_are_taken_apart(model, tmp_path):
    scanned = dataclasses.replace(CONFIG, scan_layers=True)
    folder = tmp_path / "scanned"
    checkpoints.write_model_files(folder, scanned, model.vocabulary_file, extra_ids=0)
    params = network.stack_layers(model.params)
    with checkpoints.TrainCheckpoints(folder) as saved:
        saved.save(checkpoints.TrainState(np.int32(2), params, {}), NoData())
        saved.wait()
    (chosen,) = selection.select(str(folder))
    loaded = selection.load(chosen)
    assert loaded.config == model.config
    assert checkpoints.conversion.differences(loaded.params, model.params) == []
    evaluate(loaded, tmp_path / "out", num_examples=2)
    evaluate(model, tmp_path / "plain", num_examples=2)
    assert answers_by_id(tmp_path / "out") == answers_by_id(tmp_path / "plain")


def test_a_vocabulary_of_another_model_is_refused(run, model, tmp_path):
    wide = dataclasses.replace(CONFIG, vocab_size=1024)
    params = checkpoints.init_variables(wide, jax.random.key(0))["params"]
    checkpoints.t5x_legacy.write(str(tmp_path / "checkpoint_1"), params, 1)
    with pytest.raises(ValueError, match=r"has 512 pieces and 0 extra ids, .* 1024 logits"):
        command.main(
            flags(tmp_path / "checkpoint_1", tmp_path / "out", f"--vocab={model.vocabulary_file}")
        )


def test_a_run_without_vocabulary_is_refused(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "copied")
    (copied / "spiece.model").unlink()
    with pytest.raises(FileNotFoundError, match=r"vocabulary .*spiece\.model is missing"):
        command.main(flags(copied, tmp_path / "out"))


def test_scoring_and_prompts_need_no_jax():
    program = (
        "import sys, cotdistill_jax.inference as i; i.plan(['arith'], list(i.plan.__globals__['prompts'].MODES[:2]));"
        "print([name for name in ('jax', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_the_plan_of_bbh_has_all_tasks(tmp_path):
    (tmp_path / "bbh" / "bbh").mkdir(parents=True)
    for name in benchmarks.BBH:
        content = {"examples": [{"input": "X?", "target": "(A)"}]}
        (tmp_path / "bbh" / f"{name}.json").write_text(json.dumps(content))
    parts = evaluation.plan(["bbh", "bbh/snarks"], ["zero_shot_cot"], data_dir=tmp_path)
    assert [part.benchmark for part in parts] == list(benchmarks.BBH)
    assert parts[0].key == "bbh_boolean_expressions.zero_shot_cot"


@pytest.mark.real_data
def test_every_benchmark_can_be_planned_within_the_default_lengths(data_dir):
    words = vocabulary.Vocabulary(corpus.t5_vocabulary(data_dir))
    names = ["gsm8k", "gsm8k:dev", "multiarith", "multiarith:test_400", "asdiv", "svamp", "bbh"]
    parts = inference.plan(names, ["cot_4_cases"], data_dir=data_dir)
    assert [len(part.questions) for part in parts[:6]] == [1319, 200, 600, 400, 2305, 1000]
    assert sum(len(part.questions) for part in parts[6:]) == 6511
    for part in parts:
        inputs = lengths.fit(part.prompt, part.questions, words.encode, evaluation.MAX_INPUT_TOKENS)
        assert len(inputs) == len(part.questions)


def test_golds_that_the_vocabulary_cannot_spell_are_counted_and_said(model, tmp_path):
    folder = tmp_path / "data" / "bbh" / "bbh"
    folder.mkdir(parents=True)
    examples = [{"input": f"q{i}", "target": target} for i, target in enumerate(("1", "2 ⟧", "⟦"))]
    (folder / "navigate.json").write_text(json.dumps({"examples": examples}))
    found = evaluate(
        model,
        tmp_path / "out",
        ["zero_shot_answer_only"],
        ["bbh/navigate"],
        data_dir=tmp_path / "data",
        num_examples=3,
    )
    assert [result.golds_outside_vocabulary for result in found] == [2]
    written = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert written["bbh/navigate"]["zero_shot_answer_only"]["golds_outside_vocabulary"] == 2
    assert "2 of 3 golds hold characters" in inference.results.table(found)
    assert inference.results.read(tmp_path / "out") == found
