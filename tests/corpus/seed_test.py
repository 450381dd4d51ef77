"""The dataset `seed` and its tasks, from small formatted examples: exact candidates, finished inputs, what is left out."""

import json
import shutil

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

import tasks  # noqa: F401, registers the tasks
from cotdistill_jax import benchmarks, corpus, formats, teacher
from cotdistill_jax.corpus import schema, seed
from cotdistill_jax.seqio_tasks import vocabularies
from cotdistill_jax.teacher.formatted import FormattedExample, write_examples

NUM_TRAIN, DEV_ROWS = 12, [3, 7]
LENGTHS = {"inputs": 1024, "targets": 96, "teacher_ids": 96, "teacher_probs": 96}


@pytest.fixture(scope="module")
def processor():
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(corpus.arith_vocabulary()))


@pytest.fixture(scope="module")
def benchmark_dir(tmp_path_factory):
    """A folder like the benchmark folder, with 12 train and 2 test rows; the vocabulary is the small one."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "gsm8k").mkdir()
    (folder / "t5").mkdir()
    shutil.copy(corpus.arith_vocabulary(), folder / "t5" / "spiece.model")
    np.save(folder / "gsm8k" / "seed_dev_200_index.npy", np.array(DEV_ROWS))
    for split, num in (("train", NUM_TRAIN), ("test", 2)):
        lines = [
            json.dumps(
                {
                    "question": f"Ana: has {row} apples and gets 2. How many: now?",
                    "answer": f"Now: {row} + 2 = <<{row}+2={row + 2}>>{row + 2}.\n#### {row + 2}",
                }
            )
            for row in range(num)
        ]
        (folder / "gsm8k" / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def example(form, number, row, shown, processor, benchmark_dir):
    """What the paper's code makes of a train row: colons cut out of the question, one-hot rows with one soft row of six."""
    questions = benchmarks.load("gsm8k", "train_and_dev", benchmark_dir)
    question = questions[row]
    demonstrations = [
        form.render_demonstration(questions[i].question, questions[i].rationale, questions[i].gold)
        for i in shown
    ]
    target = form.render_target(f"{row} + 2 = {row + 2}.", str(row + 2))
    pieces = []
    if form.chain_of_thought:
        pieces = [{processor.id_to_piece(piece): 1.0} for piece in processor.encode(target)]
        others = [processor.id_to_piece(piece) for piece in range(100, 105)]
        probs = [0.3333, 0.0001, 0.125, 0.2, 0.0]
        pieces[0] = {**dict.fromkeys(pieces[0], 0.0415), **dict(zip(others, probs, strict=True))}
    text = form.render_input(question.question.replace(": ", "").strip(), demonstrations)
    return FormattedExample(number, text, target, question.gold, tuple(pieces))


# Row and its demonstrations: the first three are fine, then come a development question, one as a demonstration, and its own question.
ROWS = [
    (0, (1, 2, 4, 5)),
    (0, (8, 2, 4, 5)),
    (1, (0, 2, 4, 5)),
    (3, (0, 2, 4, 5)),
    (4, (0, 2, 7, 5)),
    (5, (0, 2, 4, 5)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, benchmark_dir, processor):
    """The built datasets."""
    made, built = tmp_path_factory.mktemp("formatted"), tmp_path_factory.mktemp("tfds")
    for name, form in formats.FORMATS.items():
        examples = [
            example(form, number, row, shown if form.in_context else (), processor, benchmark_dir)
            for number, (row, shown) in enumerate(ROWS)
        ]
        unknown = FormattedExample(
            99,
            form.render_input("Who?", ["Q: a\n\n"] * form.in_context),
            "2",
            "2",
            examples[0].pieces,
        )
        write_examples(made / name, [*examples, unknown], config={"format": name}, inputs={})
        seed.Seed(
            config=name, data_dir=built, formatted_dir=made, benchmark_dir=benchmark_dir
        ).download_and_prepare()
    return built


@pytest.fixture
def data(folder, benchmark_dir, monkeypatch):
    monkeypatch.setenv("COTDISTILL_TFDS_DIR", str(folder))
    monkeypatch.setenv("COTDISTILL_DATA_DIR", str(benchmark_dir))
    # SeqIO keeps the model that it loaded first; an earlier test of this process may have read the real one.
    monkeypatch.setattr(vocabularies.t5(), "_model", None)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_counts(folder, name):
    counts = tfds.builder_from_directory(folder / "seed" / name / "1.0.0").info.metadata["counts"]
    dropped = {"not_a_training_question": 1, "shows_a_development_question": 1}
    if formats.FORMATS[name].in_context:
        dropped |= {"shows_a_development_question": 2, "shows_its_own_question": 1}
    assert counts["train"] == {"in": 7, "out": 7 - sum(dropped.values()), "dropped": dropped}
    assert (counts["validation"]["out"], counts["test"]["out"]) == (len(DEV_ROWS), 2)


def rows_of(folder, name, split="train"):
    dataset = tfds.builder_from_directory(folder / "seed" / name / "1.0.0").as_dataset(split=split)
    return {
        (row["question_id"].decode(), int(row["sample_id"])): row for row in tfds.as_numpy(dataset)
    }


def test_rows_are_the_released_ones(folder, processor, benchmark_dir):
    rows = rows_of(folder, "in_context_cot")
    assert set(rows) == {("gsm8k/train/0", 0), ("gsm8k/train/0", 1), ("gsm8k/train/1", 0)}
    made = example(formats.FORMATS["in_context_cot"], 1, *ROWS[1], processor, benchmark_dir)
    row = rows["gsm8k/train/0", 1]
    assert row["input"].decode() == made.input and row["text"].decode() == made.target
    assert row["answer"] == b"2" and row["question"].startswith(b"Ana: has 0")
    named = {name: round(10_000 * prob) for name, prob in made.pieces[0].items() if prob}
    first = {
        processor.id_to_piece(int(i)): int(p)
        for i, p in zip(row["teacher_ids"][0], row["teacher_probs"][0], strict=True)
        if p
    }
    assert first == named and next(iter(first)) == next(iter(made.pieces[0]))
    assert row["teacher_probs"][0].tolist() == [415, 3333, 2000, 1250, 1, 0]
    assert (row["teacher_ids"][1:, 0] == row["pieces"][1:]).all()
    assert (row["teacher_probs"][1:, 0] == 10_000).all()


@pytest.mark.parametrize("form", formats.FORMATS.values(), ids=formats.FORMATS)
def test_tasks(data, folder, form):
    task = seqio.get_mixture_or_task(f"seed_{form.name}_v1")
    vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()))
    for split in ("train", "validation"):
        found = list(task.get_dataset(LENGTHS, split=split, shuffle=False).as_numpy_iterator())
        stored = rows_of(folder, form.name, split).values()
        rows = {
            row["input"]: row for row in stored
        }  # samples of a question share a zero-shot input
        assert len(found) == len(stored) > 0
        for features in found:
            row = rows[features["inputs_pretokenized"]]
            assert features["targets"].tolist() == [*vocabulary.encode(row["text"].decode()), 1]
            assert features["inputs"].tolist() == [*vocabulary.encode(row["input"].decode()), 1]
            assert features["teacher_ids"].shape == (len(features["targets"]), seed.TOP_K)
            if form.chain_of_thought and split == "train":
                exact = row["teacher_probs"] / np.float32(10_000)
                assert (features["teacher_probs"][:-1] == exact).all()
                assert features["teacher_probs"][0, 0] == np.float32(0.0415)
                assert features["teacher_ids"][-1].tolist() == [1, 0, 0, 0, 0, 0]
            else:
                assert not features["teacher_probs"].any()


@pytest.mark.parametrize("released", [True, False])
def test_wrong_rationales(benchmark_dir, processor, tmp_path, monkeypatch, released):
    """From the release's formatted ones, or from the samples that are labelled wrong."""
    form = formats.get_format("in_context_cot")
    formatted_dir = tmp_path / "formatted"
    if released:
        name = schema.NEGATIVE_FORMAT
        examples = [
            example(form, number, row, shown, processor, benchmark_dir)
            for number, (row, shown) in enumerate(ROWS)
        ]
        write_examples(formatted_dir / name, examples, config={"format": name}, inputs={})
    else:
        questions = benchmarks.load("gsm8k", "train_and_dev", benchmark_dir)
        with teacher.RecordWriter(tmp_path / "codex_records", config={}, inputs={}) as writer:
            for row, label in ((0, False), (0, True), (3, False), (4, False), (5, None)):
                question = questions[row]
                writer.write(
                    teacher.TeacherRecord(
                        question_id=question.id,
                        sample_id=int(bool(label)),
                        question=question.question,
                        gold=question.gold,
                        text=" 1 + 1 = 3.\nThe answer is 3 ",
                        tokens=(),
                        top_k=(),
                        label=label,
                        teacher="codex",
                        decode_settings={},
                    )
                )
    assert seed.has_negative(formatted_dir)
    seed.Seed(
        config=schema.NEGATIVE_FORMAT,
        data_dir=tmp_path / "tfds",
        formatted_dir=formatted_dir,
        benchmark_dir=benchmark_dir,
    ).download_and_prepare()
    monkeypatch.setenv("COTDISTILL_TFDS_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("COTDISTILL_DATA_DIR", str(benchmark_dir))
    monkeypatch.setattr(vocabularies.t5(), "_model", None)
    task = seqio.get_mixture_or_task("seed_in_context_cot_negative_v1")
    counts = task.source.tfds_dataset.info.metadata["counts"]
    assert list(counts) == ["train"]
    dropped = (
        {"shows_a_development_question": 2, "shows_its_own_question": 1}
        if released
        else {"not_a_training_question": 1, "not_labelled": 1, "right_answer": 1}
    )
    assert counts["train"]["dropped"] == dropped
    rows = list(task.get_dataset(LENGTHS, "train", shuffle=False).as_numpy_iterator())
    assert len(rows) == counts["train"]["out"] == (3 if released else 2)
    for row in rows:
        assert row["inputs_pretokenized"].count(b"Let's think step by step") == 5
        assert not row["teacher_probs"].any()
        if not released:
            assert row["targets_pretokenized"] == b"1 + 1 = 3.\nThe answer is 3"


def test_a_mixture_reads(data):
    for name in ("seed_seed_3b_v1", "seed_seed_3b_v2"):
        mixture = seqio.get_mixture_or_task(name)
        dataset = mixture.get_dataset(LENGTHS, split="train", shuffle=False, num_epochs=None)
        assert len(list(dataset.take(20))) == 20


def test_another_vocabulary_is_refused_when_the_task_is_read(
    folder, benchmark_dir, monkeypatch, tmp_path
):
    other = tmp_path / "data"
    shutil.copytree(benchmark_dir, other)
    with (other / "t5" / "spiece.model").open("ab") as stream:
        stream.write(b"\xc2\x3e\x00")  # an empty field of another program: a model still
    monkeypatch.setenv("COTDISTILL_TFDS_DIR", str(folder))
    monkeypatch.setenv("COTDISTILL_DATA_DIR", str(other))
    task = seqio.get_mixture_or_task("seed_zero_shot_cot_v1")
    with pytest.raises(
        ValueError, match=r"seed/zero_shot_cot .* was aligned to the vocabulary with SHA-256"
    ):
        task.source.get_dataset("train")


def test_missing_corpus_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("COTDISTILL_TFDS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"build_corpus\.py --corpus=seed --tfds"):
        seqio.get_mixture_or_task("seed_zero_shot_cot_v1").source.get_dataset("train")


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (({"▁So": 1.0},), "seed example 5 has candidates for 1 pieces, its target has"),
        (
            ({"▁So": 1.0}, {"▁of": 1.0}, {"▁in": 1.0}),
            r"seed example 5, piece 0 .* has the candidates \['▁So'\]",
        ),
    ],
)
def test_candidates_of_another_vocabulary(processor, pieces, message):
    target = "The answer is 2"
    ids = processor.encode(target)
    if len(pieces) > 1:
        pieces = pieces[:1] * len(ids)
    with pytest.raises(ValueError, match=message):
        seed.candidate_rows(FormattedExample(5, "Q", target, "2", pieces), ids, processor)


def test_candidates_that_are_no_pieces(processor):
    ids = processor.encode("The")
    own = {processor.id_to_piece(piece): 0.5 for piece in ids}
    pieces = ({**own, "no such piece": 0.25},) * len(ids)
    with pytest.raises(ValueError, match="no such piece"):
        seed.candidate_rows(FormattedExample(5, "Q", "The", "2", pieces), ids, processor)


def test_folders_that_are_missing(tmp_path, benchmark_dir, monkeypatch):
    monkeypatch.delenv(seed.FORMATTED_DIR_VARIABLE, raising=False)
    builder = seed.Seed(config="zero_shot_cot", data_dir=tmp_path, benchmark_dir=benchmark_dir)
    with pytest.raises(FileNotFoundError, match=r"import_seed_data\.py"):
        builder.download_and_prepare()
