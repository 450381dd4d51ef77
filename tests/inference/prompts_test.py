"""Evaluation prompts are the training inputs of their format; BBH's are the published ones."""

import hashlib
import json

import pytest

from cotdistill_jax import benchmarks, formats
from cotdistill_jax.benchmarks import arith
from cotdistill_jax.inference import prompts

QUESTION = "How many is 2 + 3?"
BBH_PROMPT = (
    "canary\n-----\nSay where you are.\n\nIt may take two lines.\n\n"
    "Q: Turn left.\nOptions:\n- Yes\n- No\nA: Let's think step by step.\nWe start at 1.\nSo the answer is No.\n\n"
    "Q: Stay.\nOptions:\n- Yes\n- No\nA: Let's think step by step.\nWe stay. So the answer is Yes."
)


@pytest.fixture
def folder(tmp_path):
    """A benchmark folder with 7,500 GSM8K rows and one BBH task."""
    (tmp_path / "gsm8k").mkdir()
    rows = [
        {"question": f"What is {row}?", "answer": f"It is <<{row}={row}>>{row}.\n#### {row}"}
        for row in range(7500)
    ]
    (tmp_path / "gsm8k" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bbh" / "cot-prompts").mkdir(parents=True)
    (tmp_path / "bbh" / "cot-prompts" / "navigate.txt").write_text(BBH_PROMPT)
    return tmp_path


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("zero_shot_cot", "Q: How many is 2 + 3?\nLet's think step by step"),
        ("zero_shot_answer_only", "Q: How many is 2 + 3? A:"),
    ],
)
@pytest.mark.parametrize("benchmark", ["gsm8k", "arith", "svamp", "bbh/navigate"])
def test_zero_shot_prompts_are_the_training_inputs(mode, text, benchmark):
    prompt = prompts.build(mode, benchmark)
    assert prompt.render(QUESTION) == formats.FORMATS[mode].render_input(QUESTION) == text


@pytest.mark.parametrize(
    ("mode", "name"),
    [("cot_4_cases", "in_context_cot"), ("answer_only_4_cases", "in_context_answer_only")],
)
def test_four_case_prompts_are_the_training_inputs(mode, name, folder):
    form = formats.FORMATS[name]
    demonstrations = [
        form.render_demonstration(f"What is {row}?", f"It is {row}.", str(row))
        for row in (802, 6893, 7003, 2778)
    ]
    prompt = prompts.build(mode, "multiarith", folder)
    assert prompt.render(QUESTION) == form.render_input(QUESTION, demonstrations)


def test_arith_is_demonstrated_by_its_own_training_problems():
    form = formats.FORMATS["in_context_cot"]
    train = arith.load("train", num_examples=7004)
    chosen = [train[row] for row in (802, 6893, 7003, 2778)]
    demonstrations = [form.render_demonstration(q.question, q.rationale, q.gold) for q in chosen]
    prompt = prompts.build("cot_4_cases", "arith")
    assert prompt.render(QUESTION) == form.render_input(QUESTION, demonstrations)


def test_a_question_is_never_its_own_demonstration(folder):
    prompt = prompts.build("cot_4_cases", "gsm8k", folder)
    text = prompt.render("What is 7003?")
    assert text.count("What is 7003?") == 1
    assert text.count("Q: ") == 4
    assert prompt.render(QUESTION).count("Q: ") == 5


def test_left_out_demonstrations_are_the_first_ones(folder):
    prompt = prompts.build("answer_only_4_cases", "gsm8k", folder)
    assert prompt.render(QUESTION, 3) == (
        "Q: What is 2778?\nA: The answer is 2778\n\nQ: How many is 2 + 3?\nA:"
    )


def test_bbh_chain_of_thought_prompt_is_the_published_one(folder):
    text = prompts.build("cot_4_cases", "bbh/navigate", folder).render("Go.")
    published = BBH_PROMPT.removeprefix("canary\n-----\n")
    assert text == f"{published}\n\nQ: Go.\nA: Let's think step by step."


def test_bbh_answer_only_prompt_leaves_out_the_rationales(folder):
    text = prompts.build("answer_only_4_cases", "bbh/navigate", folder).render("Go.")
    assert text == (
        "Say where you are.\n\nIt may take two lines.\n\n"
        "Q: Turn left.\nOptions:\n- Yes\n- No\nA: No\n\nQ: Stay.\nOptions:\n- Yes\n- No\nA: Yes\n\nQ: Go.\nA:"
    )


def test_a_bbh_prompt_of_another_shape_is_refused(folder):
    path = folder / "bbh" / "cot-prompts" / "navigate.txt"
    path.write_text(BBH_PROMPT.replace("So the answer is", "Thus it is"))
    with pytest.raises(ValueError, match="a demonstration of bbh/navigate is not 'Q: "):
        prompts.build("answer_only_4_cases", "bbh/navigate", folder)


def test_a_file_without_mark_is_followed_by_the_question(tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("Solve.\n\nQ: 1+1?\nA: 2\n\nQ: 2+2?\nA: 4\n")
    prompt = prompts.build(f"file:{path}", "gsm8k")
    assert prompt.head == "Solve.\n\n"
    assert [d.question for d in prompt.demonstrations] == ["1+1?", "2+2?"]
    assert prompt.render("3+3?", 1) == ("Solve.\n\nQ: 2+2?\nA: 4\n\nQ: 3+3?\nA:")


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ("Q: 1+1?\nLet's think step by step\nIt is 2.", "Q: 3+3?\nLet's think step by step"),
        ("Question: 1+1?\nThe answer is 2.", "Question: 3+3?\nThe answer is"),
        ("Question: 1+1?\nA: 2", "Question: 3+3?\nA:"),
        ("Q: 1+1?\nA: Let's think step by step. 2", "Q: 3+3?\nA: Let's think step by step."),
        ("Solve it.", "Q: 3+3?\nLet's think step by step"),
    ],
)
def test_a_file_asks_as_its_demonstrations_do(tmp_path, shown, asked):
    path = tmp_path / "prompt.txt"
    path.write_text(shown)
    prompt = prompts.build(f"file:{path}", "gsm8k")
    assert prompt.render("3+3?") == f"{shown}\n\n{asked}"
    if prompt.demonstrations:
        assert prompt.render("1+1?") == asked.replace("3+3?", "1+1?")  # never its own demonstration


def test_demonstrations_that_show_no_way_to_ask_need_a_mark(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("Q: 1+1?\nA: 2\n\nQ: 2+2?\nfour\n")
    with pytest.raises(ValueError, match=r"do not all hold one of .*\{question\}"):
        prompts.build(f"file:{path}", "gsm8k")


@pytest.mark.parametrize("mode", list(prompts.EIGHT_CASES))
def test_eight_cases_are_rows_of_gsm8k_and_read_alike_from_a_file(mode, folder):
    prompt = prompts.build(mode, "svamp", folder)
    demonstrations = "".join(
        f"Question: What is {row}?\nLet's think step by step\nIt is {row}.\nThe answer is {row}\n\n"
        for row in prompts.EIGHT_CASES[mode]
    )
    assert prompt.render(QUESTION) == (
        f"{demonstrations}Question: {QUESTION}\nLet's think step by step"
    )
    file = folder / f"prompt_{mode}.txt"
    file.write_text(demonstrations)
    read = prompts.build(f"file:{file}", "svamp")
    assert read.demonstrations == prompt.demonstrations and read.sha256 == prompt.sha256
    with pytest.raises(ValueError, match=f"{mode} shows maths problems, got bbh/navigate; ask BBH"):
        prompts.build(mode, "bbh/navigate", folder)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("mode", "digest"),
    [
        ("complex", "d20a8061b484da2d93d10152727c5c137f7bec76f5f4f9e1c94f17cf33051aee"),
        ("simple", "e47a4425475eed38cc0e6de602340dde83db57d192d83021ba8cc358affb655b"),
        ("random", "0163f82793ba27a2d3ad2b7d665f984ff72d3ac8b893d68c62731c2f848060f3"),
    ],
)
def test_eight_cases_are_the_papers_files(mode, digest, data_dir):
    # SHA-256 of lib_prompt/prompt_<mode>.txt of the paper's repository, which ends in one newline.
    text = "".join(d.text for d in prompts.build(mode, "gsm8k", data_dir).demonstrations)
    assert hashlib.sha256(text.removesuffix("\n").encode()).hexdigest() == digest


def test_a_file_may_mark_the_place_of_the_question(tmp_path):
    path = tmp_path / "direct.txt"
    path.write_text("Question: 1+1?\nThe answer is 2.\n\nQuestion: {question}\nThe answer is\n")
    prompt = prompts.build(f"file:{path}", "gsm8k")
    assert prompt.render("3+3?") == (
        "Question: 1+1?\nThe answer is 2.\n\nQuestion: 3+3?\nThe answer is"
    )
    assert prompt.render("3+3?", 1) == "Question: 3+3?\nThe answer is"


def test_bad_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown prompt 'cot'; allowed: zero_shot_cot, "):
        prompts.build("cot", "gsm8k")
    with pytest.raises(FileNotFoundError, match=r"no prompt file .*absent\.txt"):
        prompts.build(f"file:{tmp_path / 'absent.txt'}", "gsm8k")
    twice = tmp_path / "twice.txt"
    twice.write_text("{question} {question}")
    with pytest.raises(ValueError, match=r"at most one \{question\}, got 21 characters with 2"):
        prompts.build(f"file:{twice}", "gsm8k")


def test_a_short_train_file_is_refused(folder):
    path = folder / "gsm8k" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:100]))
    with pytest.raises(ValueError, match="which has 100 rows; fetch the whole file"):
        prompts.build("cot_4_cases", "gsm8k", folder)


def test_the_checksum_covers_everything_around_the_question(folder):
    built = [
        prompts.build(mode, benchmark, folder).sha256
        for mode in prompts.MODES
        for benchmark in ("gsm8k", "bbh/navigate")
        if (mode, benchmark) not in {(eight, "bbh/navigate") for eight in prompts.EIGHT_CASES}
    ]
    assert len(set(built)) == 9  # the two zero-shot prompts are the same for both benchmarks


@pytest.mark.real_data
def test_the_demonstrations_are_the_papers_and_not_held_out(data_dir):
    text = prompts.build("cot_4_cases", "gsm8k", data_dir).render("X")
    first_words = ["Ivan has a bird", "Samuel took 30", "Julia bought 3", "Lexi wants to"]
    places = [text.index(f"Q: {words}") for words in first_words]
    assert places == sorted(places)
    assert "<<" not in text
    dev = {question.question for question in benchmarks.load("gsm8k", "dev", data_dir)}
    assert not any(
        d.question in dev for d in prompts.build("cot_4_cases", "gsm8k", data_dir).demonstrations
    )


@pytest.mark.real_data
@pytest.mark.parametrize("benchmark", benchmarks.BBH)
def test_every_published_bbh_prompt_can_be_used(benchmark, data_dir):
    published = benchmarks.bbh_cot_prompt(benchmark.removeprefix("bbh/"), data_dir)
    cot = prompts.build("cot_4_cases", benchmark, data_dir)
    assert cot.render("X") == f"{published}\n\nQ: X\nA: Let's think step by step."
    direct = prompts.build("answer_only_4_cases", benchmark, data_dir).render("X")
    assert len(cot.demonstrations) == 3
    assert direct.count("\nA: ") == 3 and direct.endswith("\nA:")
    assert "step by step" not in direct and "the answer is" not in direct


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_of_other_systems_and_a_byte_order_mark_read_as_without(folder, end, mark):
    mine, published = folder / "prompt.txt", folder / "bbh" / "cot-prompts" / "navigate.txt"
    mine.write_text("Q: 1 + 1?\nA: It is 2.\n\nQ: {question}\nA:")
    modes = (f"file:{mine}", "cot_4_cases")
    expected = [prompts.build(mode, "bbh/navigate", folder) for mode in modes]
    for path in (mine, published):
        path.write_bytes((mark + path.read_text().replace("\n", end)).encode())
    assert [prompts.build(mode, "bbh/navigate", folder) for mode in modes] == expected


def test_what_is_no_prompt_is_named(tmp_path):
    path = tmp_path / "prompt.txt"
    for content, named in (
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "Git LFS pointer"),
        ("Q: {question}".encode("utf-16"), "not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=named):
            prompts.build(f"file:{path}", "gsm8k")
