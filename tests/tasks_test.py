"""The registered tasks and mixtures, read from a small corpus: what the model gets, and when."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

import tasks
from cotdistill_jax import benchmarks, corpus, features, formats
from cotdistill_jax.corpus import arith, schema
from cotdistill_jax.seqio_tasks import seed_batches
from cotdistill_jax.train import data as data_of_runs

LENGTHS = {"inputs": 512, "targets": 96, "teacher_ids": 96, "teacher_probs": 96}
ROOT = pathlib.Path(tasks.__file__).parents[1]
ARITH = [f"arith_{form}_v1" for form in formats.FORMATS]
NUM_QUESTIONS = 120
SEED_SIZES = ("250m", "780m", "3b", "11b", "11b_8cards")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A TFDS data directory with a small `arith`."""
    path = tmp_path_factory.mktemp("tfds")
    arith.Arith(num_questions=NUM_QUESTIONS, data_dir=path).download_and_prepare()
    return path


@pytest.fixture(autouse=True)
def data(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points the tasks to that directory."""
    monkeypatch.setenv("COTDISTILL_TFDS_DIR", str(folder))


@pytest.fixture(scope="module")
def rows(folder: pathlib.Path) -> dict[str, dict[tuple[bytes, int], dict[str, Any]]]:
    """The corpus's rows per split."""
    builder = tfds.builder_from_directory(folder / "arith" / schema.VERSION)
    return {
        split: {
            (r["question_id"], r["sample_id"]): r
            for r in tfds.as_numpy(builder.as_dataset(split=split))
        }
        for split in schema.SPLITS
    }


@pytest.fixture(scope="module")
def processor() -> sentencepiece.SentencePieceProcessor:
    """The arith student's vocabulary."""
    return sentencepiece.SentencePieceProcessor(model_file=str(corpus.arith_vocabulary()))


def read(
    name: str, split: str = "train", seed: int | None = 0, **options: Any
) -> list[dict[str, Any]]:
    dataset = seqio.get_mixture_or_task(name).get_dataset(
        LENGTHS, split=split, shuffle=False, seed=seed, **options
    )
    return list(dataset.as_numpy_iterator())


def form_of(name: str) -> formats.Format:
    return formats.FORMATS[name.removeprefix("arith_").removesuffix("_v1")]


def test_names() -> None:
    for source in ("arith", "gsm8k_gold", "gsm8k_teacher", "seed"):
        for form in formats.FORMATS:
            assert f"{source}_{form}_v1" in seqio.TaskRegistry.names()
        sizes = [f"seed_{size}" for size in SEED_SIZES]
        kinds = [f"{size}_{kind}" for size in sizes for kind in ("in_context", "zero_shot")]
        for kind in ("all", "in_context", "zero_shot", *sizes, *kinds):
            assert f"{source}_{kind}_v1" in seqio.MixtureRegistry.names()


def test_seed_rates() -> None:
    mixture = seqio.MixtureRegistry.get("gsm8k_teacher_seed_3b_v1")
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert rates == {
        "gsm8k_teacher_in_context_cot_v1": 103_560 / 130_530,
        "gsm8k_teacher_zero_shot_cot_v1": 25_890 / 130_530,
        "gsm8k_teacher_in_context_answer_only_v1": 720 / 130_530,
        "gsm8k_teacher_zero_shot_answer_only_v1": 360 / 130_530,
    }


def test_mixtures_of_one_kind_hold_that_kind() -> None:
    names = {task.name for task in seqio.MixtureRegistry.get("arith_in_context_v1").tasks}
    assert names == {"arith_in_context_cot_v1", "arith_in_context_answer_only_v1"}


@pytest.mark.parametrize("name", ARITH)
def test_inputs_and_targets_are_the_tokenised_texts(
    name: str, processor: sentencepiece.SentencePieceProcessor
) -> None:
    """Also proves that demonstrations tokenised apart give the ids of the whole text."""
    for split in ("train", "validation"):
        for example in read(name, split):
            text = example["inputs_pretokenized"].decode()
            assert example["inputs"].tolist() == [*processor.encode(text), 1]
            text = example["targets_pretokenized"].decode()
            assert example["targets"].tolist() == [*processor.encode(text), 1]


@pytest.mark.parametrize("name", ARITH)
def test_inputs_are_rendered_by_formats(name: str) -> None:
    form = form_of(name)
    pool = {q.question: q for q in benchmarks.load("arith", "train")}
    held_out = {q.question for s in ("validation", "test") for q in benchmarks.load("arith", s)}
    for split in ("train", "test"):
        for example in read(name, split)[:60]:
            text = example["inputs_pretokenized"].decode()
            *blocks, query = text.split("\n\n") if form.in_context else [text]
            question = example["question"].decode()
            assert query == form.query_prefix + question + form.query_suffix
            if not form.in_context:
                continue
            assert len(blocks) == formats.NUM_DEMONSTRATIONS
            shown = [block.removeprefix("Q: ").split("\n")[0] for block in blocks]
            assert len({question, *shown}) == 1 + formats.NUM_DEMONSTRATIONS
            assert not held_out & set(shown)
            demonstrations = [
                form.render_demonstration(pool[q].question, pool[q].rationale, pool[q].gold)
                for q in shown
            ]
            assert text == form.render_input(question, demonstrations)


def test_teacher_rows_are_those_of_the_corpus(rows: dict[str, dict]) -> None:
    examples = read("arith_in_context_cot_v1")
    assert len(examples) == len(rows["train"])
    for example in examples:
        row = rows["train"][example["question_id"], example["sample_id"]]
        np.testing.assert_array_equal(example["teacher_ids"][:-1], row["teacher_ids"])
        decimals = np.array([[f"{p / 10_000:.4f}" for p in r] for r in row["teacher_probs"]])
        np.testing.assert_array_equal(example["teacher_probs"][:-1], decimals.astype(np.float32))
        assert example["teacher_ids"][-1].tolist() == [1, 0, 0, 0, 0]
        assert example["teacher_probs"][-1].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
        assert example["targets"].tolist() == [*row["pieces"], 1]


def test_answer_only_uses_each_question_once_and_no_teacher(rows: dict[str, dict]) -> None:
    examples = read("arith_zero_shot_answer_only_v1")
    assert sorted(e["question_id"] for e in examples) == sorted({key[0] for key in rows["train"]})
    for example in examples:
        assert example["targets_pretokenized"] == b"The answer is " + example["answer"]
        assert example["teacher_probs"].shape == (len(example["targets"]), schema.TOP_K)
        assert not example["teacher_probs"].any()


@pytest.mark.parametrize("name", ARITH)
def test_held_out_rows_have_no_teacher_and_fixed_demonstrations(name: str) -> None:
    for split in ("validation", "test"):
        first, second = read(name, split, seed=0), read(name, split, seed=1)
        assert len(first) == len(benchmarks.load("arith", split)[:NUM_QUESTIONS])
        assert not any(e["teacher_probs"].any() or e["teacher_ids"].any() for e in first)
        for left, right in zip(first, second, strict=True):
            np.testing.assert_array_equal(left["inputs"], right["inputs"])


def test_draws_follow_the_seed_and_change_every_epoch() -> None:
    name = "arith_in_context_answer_only_v1"
    two = [e["inputs_pretokenized"] for e in read(name, num_epochs=2)]
    assert two == [e["inputs_pretokenized"] for e in read(name, num_epochs=2)]
    half = len(two) // 2
    assert sum(a == b for a, b in zip(two[:half], two[half:], strict=True)) == 0
    other = [e["inputs_pretokenized"] for e in read(name, seed=1)]
    assert sum(a == b for a, b in zip(two[:half], other, strict=True)) == 0


def questions_of(name: str, seed: int, num_epochs: int = 1, shard: tuple[int, int] | None = None):
    """Returns question and sample of every example, in the order of training."""
    dataset = seqio.get_mixture_or_task(name).get_dataset(
        LENGTHS,
        split="train",
        shuffle=True,
        seed=seed,
        num_epochs=num_epochs,
        shard_info=shard and seqio.ShardInfo(*shard),
    )
    return [(e["question_id"], int(e["sample_id"])) for e in dataset.as_numpy_iterator()]


def test_by_question_a_questions_samples_follow_each_other_and_its_place_is_drawn(
    rows: dict[str, dict],
) -> None:
    name = "arith_zero_shot_cot_by_question_v1"
    two = questions_of(name, seed=0, num_epochs=2)
    first, second = two[: len(two) // 2], two[len(two) // 2 :]
    assert sorted(first) == sorted(second) == sorted(rows["train"])
    for epoch in (first, second):
        names = [question for question, _ in epoch]
        starts = [at for at in range(len(names)) if at == 0 or names[at] != names[at - 1]]
        assert len(starts) == len(set(names)) < len(names)
    assert first != second
    assert two == questions_of(name, seed=0, num_epochs=2)
    assert first != questions_of(name, seed=1)
    shards = [questions_of(name, seed=0, shard=(index, 2)) for index in (0, 1)]
    assert sorted(shards[0] + shards[1]) == sorted(first)
    assert not {question for question, _ in shards[0]} & {question for question, _ in shards[1]}


def test_same_question_mixtures_hold_blocks_of_one_format_at_the_usual_rates() -> None:
    usual = seqio.MixtureRegistry.get("gsm8k_teacher_seed_3b_v1")
    ours = seqio.MixtureRegistry.get("gsm8k_teacher_seed_3b_same_question_v1")
    rates = {task.name: ours.get_rate(task) for task in ours.tasks}
    assert rates == {
        task.name.replace("_cot_v1", "_cot_by_question_v1"): usual.get_rate(task)
        for task in usual.tasks
    }
    mixture = seqio.get_mixture_or_task("arith_seed_3b_same_question_v1")
    dataset = mixture.get_dataset(LENGTHS, split="train", shuffle=True, seed=0)
    kinds = [
        ("in_context" if len(e["inputs"]) > 100 else "zero_shot")
        + ("_cot" if e["teacher_probs"].any() else "_answer_only")
        for e in dataset.take(1500).as_numpy_iterator()
    ]
    sizes = seed_batches.BATCH_SIZES["3b"]
    at = 0
    while at + 600 <= len(kinds):
        size = sizes.effective(kinds[at])
        assert len(set(kinds[at : at + size])) == 1
        at += size
    assert len(set(kinds)) > 1


def test_samples_of_a_question_share_their_inputs_in_a_packed_row() -> None:
    iterator = data_of_runs.train_iterator(
        "arith_in_context_cot_by_question_v1", {**LENGTHS, "inputs": 640}, batch_size=64, seed=0
    )
    batch = next(iterator)
    begins = (batch["decoder_positions"] == 0) & (batch["decoder_segment_ids"] > 0)
    segments = batch["encoder_segment_ids"]
    assert segments.max(axis=1).sum() < begins.sum()  # some questions of arith have two samples
    for tokens, numbers in zip(batch["encoder_input_tokens"], segments, strict=True):
        inputs = [tokens[numbers == number].tobytes() for number in range(1, numbers.max() + 1)]
        assert len(set(inputs)) == len(inputs)
    assert not batch["decoder_input_tokens"][begins].any()
    np.testing.assert_array_equal(batch["decoder_segment_ids"].max(axis=1), segments.max(axis=1))


def test_same_question_data_go_on_where_they_stood(tmp_path: pathlib.Path) -> None:
    def iterator():
        return data_of_runs.train_iterator(
            "arith_seed_3b_same_question_v1", LENGTHS, batch_size=4, seed=0
        )

    whole, stopped, continued = iterator(), iterator(), iterator()
    for _ in range(30):
        next(whole)
        next(stopped)
    stopped.save(tmp_path / "position")
    continued.restore(tmp_path / "position")
    for _ in range(30):
        left, right = next(whole), next(continued)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_all_features_fit_the_declared_ones() -> None:
    for name in ("arith_all_v1", "arith_seed_3b_v1", "arith_seed_3b_same_question_v1"):
        dataset = seqio.get_dataset(
            name,
            {**LENGTHS, "inputs": 640},
            dataset_split="train",
            shuffle=True,
            seed=0,
            num_epochs=1,
            feature_converter=features.DistillEncDecFeatureConverter(pack=True),
        )
        first = next(dataset.as_numpy_iterator())
        assert first["encoder_segment_ids"].max() >= 2
        assert first["decoder_teacher_probs"].shape == (96, schema.TOP_K)
        assert first["decoder_teacher_probs"].sum(axis=1).max() <= 1.001


def test_over_long_examples_are_left_out_whole() -> None:
    lengths = {**LENGTHS, "inputs": 256}
    report = features.count_lengths("arith_in_context_cot_v1", "train", lengths)
    dataset = seqio.get_mixture_or_task("arith_in_context_cot_v1").get_dataset(
        lengths, split="train", shuffle=False, seed=0
    )
    kept = list(dataset.as_numpy_iterator())
    (counted,) = report.values()
    assert len(kept) == counted.kept < counted.examples
    assert all(e["inputs"][-1] == e["targets"][-1] == 1 for e in kept)


@pytest.fixture
def cache_dir(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that SeqIO looks for caches in, during one test."""
    before = seqio.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(tmp_path)])
    yield tmp_path
    seqio.set_global_cache_dirs(before)


@pytest.mark.parametrize("name", ["arith_in_context_cot_v1", "arith_zero_shot_answer_only_v1"])
def test_cached_data_are_the_same(name: str, cache_dir: pathlib.Path) -> None:
    features.write_cache(name, cache_dir, num_shards=1)
    for split in ("train", "validation"):
        direct, cached = read(name, split), read(name, split, use_cached=True)
        for left, right in zip(direct, cached, strict=True):
            for feature in ("inputs", "targets", "teacher_ids", "teacher_probs"):
                np.testing.assert_array_equal(left[feature], right[feature])
            assert left["answer"] == right["answer"]


@pytest.mark.parametrize("name", ARITH)
def test_seqio_task_test(name: str, rows: dict[str, dict]) -> None:
    """SeqIO's own test of preprocessing, postprocessing and metrics, on one injected row."""
    row = next(r for r in rows["train"].values() if r["first_of_question"])
    example = seqio.test_utils.test_preprocessing_single(name, {"train": row}, seed=0)
    assert example["targets"][-1] == 1
    for text, accuracy, unparsed in (
        (example["targets_pretokenized"].decode(), 100, 0),
        ("The answer is 1000", 0, 0),
        ("no idea", 0, 100),
    ):
        metrics = seqio.test_utils.test_postprocessing(
            name,
            {"validation": row},
            predict_output=[text],
            sequence_length=LENGTHS,
            feature_encoder=features.DistillEncDecFeatureConverter(pack=False),
        )
        assert metrics == {"accuracy": accuracy, "unparsed": unparsed}


def test_missing_corpus_says_where_and_how(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTDISTILL_TFDS_DIR", str(tmp_path))
    message = r"gsm8k_gold is not in .*gsm8k_gold/1\.0\.0.*build_corpus\.py --corpus=gsm8k_gold"
    task = seqio.get_mixture_or_task("gsm8k_gold_zero_shot_cot_v1")
    with pytest.raises(FileNotFoundError, match=message):
        task.get_dataset(LENGTHS)
    with pytest.raises(FileNotFoundError, match=message):
        task.num_input_examples("train")


def test_importing_tasks_needs_no_data(tmp_path: pathlib.Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COTDISTILL_")}
    command = "import tasks, seqio; print(len(list(seqio.TaskRegistry.names())))"
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    # four formats of four sources, two formats by question of three sources, two verifiers
    assert done.stdout.strip() == "149"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_data
def test_gsm8k_gold_tasks(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotdistill_jax.corpus import gsm8k_gold

    monkeypatch.setenv("COTDISTILL_TFDS_DIR", str(tmp_path))
    gsm8k_gold.Gsm8kGold(data_dir=tmp_path).download_and_prepare()
    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(data_dir / "t5/spiece.model"))
    dev = {q.question for q in benchmarks.load("gsm8k", "dev")}
    for form in formats.FORMATS:
        task = seqio.get_mixture_or_task(f"gsm8k_gold_{form}_v1")
        assert task.output_features["targets"].vocabulary.vocab_size == 32_100
        for split in ("train", "validation"):
            dataset = task.get_dataset(split=split, shuffle=False, seed=0).take(150)
            for example in dataset.as_numpy_iterator():
                text = example["inputs_pretokenized"].decode()
                assert example["inputs"].tolist() == [*vocabulary.encode(text), 1]
                assert b"<<" not in example["targets_pretokenized"]
                assert example["targets_pretokenized"].endswith(
                    b"The answer is " + example["answer"]
                )
                questions = [part.split("\n")[0] for part in text.split("Q: ")[1:]]
                shown = questions[:-1] if split == "validation" else questions
                assert not dev & set(shown)


def test_held_out_examples_that_do_not_fit_stop_an_evaluation_and_training_ones_are_left_out() -> (
    None
):
    task = seqio.get_mixture_or_task("arith_in_context_cot_v1")
    short = {**LENGTHS, "inputs": 250}
    trained = list(task.get_dataset(short, "train", shuffle=False, seed=0).as_numpy_iterator())
    assert 0 < len(trained) < len(read("arith_in_context_cot_v1"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"inputs has.*allowed are.*250"):
        list(task.get_dataset(short, "validation", shuffle=False, seed=0).as_numpy_iterator())
