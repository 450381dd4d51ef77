import pytest

from cotdistill_jax import benchmarks

COUNTS = {
    ("gsm8k", "train"): 7273,
    ("gsm8k", "dev"): 200,
    ("gsm8k", "test"): 1319,
    ("gsm8k", "train_and_dev"): 7473,
    ("multiarith", "test"): 600,
    ("multiarith", "validation_200"): 200,
    ("multiarith", "test_400"): 400,
    ("asdiv", "test"): 2305,
    ("svamp", "test"): 1000,
}


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_published_counts(data_dir, name, split):
    questions = benchmarks.load(name, split=split, data_dir=data_dir)
    assert len(questions) == COUNTS[name, split]
    assert len({q.id for q in questions}) == len(questions)
    assert {q.benchmark for q in questions} == {name}


@pytest.mark.real_data
def test_bbh_counts(data_dir):
    counts = {name: len(benchmarks.load(name, data_dir=data_dir)) for name in benchmarks.BBH}
    unusual = {"bbh/causal_judgement": 187, "bbh/penguins_in_a_table": 146, "bbh/snarks": 178}
    assert counts == {name: unusual.get(name, 250) for name in benchmarks.BBH}
    assert len(counts) == 27


def test_unknown_names_and_splits_list_the_allowed_ones():
    with pytest.raises(
        ValueError, match=r"unknown benchmark 'gsm9k'; allowed: arith, gsm8k, .*bbh/snarks"
    ):
        benchmarks.load("gsm9k")
    with pytest.raises(ValueError, match="unknown benchmark 'bbh'"):
        benchmarks.load("bbh")
    with pytest.raises(
        ValueError, match="multiarith has no split 'dev'; allowed: test, validation_200, test_400"
    ):
        benchmarks.load("multiarith", split="dev")


def test_splits_lists_them():
    assert benchmarks.splits("svamp") == ("test",)
    assert benchmarks.splits("bbh/snarks") == ("test",)
    assert benchmarks.splits("arith") == (
        *("train", "validation", "test"),
        *("validation_2000", "test_2000"),
    )
    assert "dev" in benchmarks.splits("gsm8k")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gsm8k", "gsm8k/test.jsonl"),
        ("multiarith", "multiarith/MultiArith.json"),
        ("asdiv", "asdiv/ASDiv.xml"),
        ("svamp", "svamp/SVAMP.json"),
        ("bbh/snarks", "bbh/bbh/snarks.json"),
    ],
)
def test_a_missing_file_is_named_with_place_and_command(tmp_path, monkeypatch, name, file):
    command = f"python scripts/download_benchmarks.py --data_dir={tmp_path}"
    with pytest.raises(FileNotFoundError) as caught:
        benchmarks.load(name, data_dir=tmp_path)
    assert file in str(caught.value)
    assert f"looked for {tmp_path / file}" in str(caught.value)
    assert command in str(caught.value)
    monkeypatch.setenv("COTDISTILL_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="looked for"):
        benchmarks.load(name)


def test_no_folder_at_all_says_how_to_give_one(monkeypatch):
    monkeypatch.delenv("COTDISTILL_DATA_DIR", raising=False)
    with pytest.raises(
        FileNotFoundError, match=r"svamp/SVAMP.json is needed, but .* COTDISTILL_DATA_DIR"
    ):
        benchmarks.load("svamp")


def test_arith_needs_no_files(monkeypatch):
    monkeypatch.delenv("COTDISTILL_DATA_DIR", raising=False)
    questions = benchmarks.load("arith", split="validation")
    assert questions
    assert {question.benchmark for question in questions} == {"arith"}


def test_the_long_held_out_splits_of_arith_go_on_from_the_short_ones_and_leak_nothing():
    train = benchmarks.load("arith", split="train")
    for split in ("validation", "test"):
        long = benchmarks.load("arith", split=f"{split}_2000")
        assert len(long) == len({question.id for question in long}) == 2000
        assert long[:200] == benchmarks.load("arith", split=split)
        assert not benchmarks.overlaps(long, train)
