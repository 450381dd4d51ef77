"""The released pickles, made small: records with raw steps, the repeated question, formatted examples, and every wrong shape."""

import collections
import pathlib
import pickle

import pytest

from cotdistill_jax import teacher
from cotdistill_jax.teacher import seed_pickles
from cotdistill_jax.teacher.seed_text import SeedFileError

STEPS = [
    [(" step", 1.0), ("!", 0.0), (" step", 1.0)],
    [("\n", 0.9862), ("\n", 0.9862), (".", 0.009)],
    [("It", 0.5), ("So", 0.25), ("It", 0.5)],
    [(" is", 0.75), (" is", 0.75)],
    [(" 2", 0.0415), (" 3", 0.9), (" 4", 0.0001)],
    [("\n", 1.0)],
    [("\n", 1.0)],
]
TEXT = "Model output 0: \nIt is 2\n"
FILES = {
    "codex_questions": [f"Question {n}: What: 1 + {n}?\n" for n in (0, 1, 2, 2, 3)],
    "codex_answers": [f"Answer: 1+{n}=<<1+{n}={1 + n}>>{1 + n}\n#### {1 + n}\n" for n in range(4)],
    "codex_predictions": [[TEXT, TEXT.replace("0:", "1:")]] * 4,
    "codex_per_step_probs": [[STEPS, STEPS]] * 4,
    "codex_prediction_labels": [[0, 0], [1, 1], [0, 0], [0, 0]],
    "codex_updated_labels": [[0, 0], [1, 0], [0, 0], [0, 0]],
    "codex_dtw_transformed_step_probs": [
        [None, None],
        [
            [
                {"▁It": 1.0},
                collections.OrderedDict([("▁is", 0.75)]),
                {"▁2": 0.0415, "▁3": 0.9, "▁4": 0.0001},
            ],
            None,
        ],
        [None, None],
        [None, None],
    ],
    "flan_predictions": [
        ["Model output 0:  It is 2</s>"],
        ["Model output 0: <pad> It is 3</s>"],
        [],
        [],
    ],
}


def copied(value):
    """The same value with no two lists that are one object: pickle would write the second as a reference."""
    return (
        pickle.loads(pickle.dumps(value))
        if not isinstance(value, list)
        else [copied(v) for v in value]
    )


def write(folder: pathlib.Path, **changed) -> pathlib.Path:
    for name, items in {**FILES, **changed}.items():
        if items is not None:
            (folder / f"{name}.pkl").write_bytes(pickle.dumps(copied(items)))
    return folder


def opened(folder, flavour="codex"):
    found = seed_pickles.SeedSamples.open(folder, flavour)
    assert found is not None
    return found


def test_records_hold_the_raw_steps_and_the_bare_answer(tmp_path):
    questions = list(opened(write(tmp_path)))
    assert [len(records) for records in questions] == [2, 2, 2, 2]
    record = questions[1][1]
    assert (record.question_id, record.sample_id) == ("gsm8k/train/1", 1)
    assert (record.question, record.gold, record.text) == ("What: 1 + 1?", "2", "It is 2")
    assert record.tokens == (" step", "\n", "It", " is", " 2", "\n", "\n")
    assert [list(row) for row in record.top_k] == STEPS
    assert record.label is True and questions[0][0].label is False
    assert record.teacher == "code-davinci-002" and record.decode_settings["temperature"] == 0.5
    for made in questions:
        for each in made:
            teacher.validate_record(each)


def test_the_seeds_own_alignment_is_read(tmp_path):
    samples = opened(write(tmp_path))
    assert samples.has_aligned
    (example,) = samples.aligned()
    assert (example.row, example.input, example.target) == (2, "What: 1 + 1?", "It is 2")
    assert (example.gold, [dict(piece) for piece in example.pieces]) == (
        "2",
        [{"▁It": 1.0}, {"▁is": 0.75}, {"▁2": 0.0415, "▁3": 0.9, "▁4": 0.0001}],
    )
    assert not opened(write(tmp_path), "flan").has_aligned


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([[None]] * 4, "dtw_transformed_step_probs.pkl: expected 2 values"),
        ([[None, 5]] * 4, "record 0, sample 1 of codex_dtw.*expected a list of dictionaries"),
        ([[None, [{7: 1.0}]]] * 4, "sample 1 of codex_dtw.*piece 0: expected .* got 7: 1.0"),
        (
            [[None, [{}, {"a": "1"}]]] * 4,
            "sample 1 of codex_dtw.*piece 1: expected .* got 'a': '1'",
        ),
    ],
)
def test_an_alignment_of_another_shape_is_named(tmp_path, changed, message):
    samples = opened(write(tmp_path, codex_dtw_transformed_step_probs=changed))
    with pytest.raises(SeedFileError, match=message):
        list(samples.aligned())


def test_the_repeated_question_is_left_out_and_reported(tmp_path):
    samples = opened(write(tmp_path))
    assert samples.repeated == [(3, 2)]
    assert len(samples) == 4
    assert [records[0].question_id for records in samples] == [f"gsm8k/train/{n}" for n in range(4)]
    assert [records[0].gold for records in samples] == ["1", "2", "3", "4"]


def test_counts_what_the_seed_rejected(tmp_path):
    samples = opened(write(tmp_path))
    assert len(list(samples)) == 4
    assert samples.rejected_by_seed == 1


def test_labels_may_be_any_numbers_that_are_0_and_1(tmp_path):
    labels, updated = [[0.0, True]] * 4, [[False, 0.0]] * 4
    samples = opened(write(tmp_path, codex_prediction_labels=labels, codex_updated_labels=updated))
    assert [record.label for records in samples for record in records] == [False, True] * 4
    assert samples.rejected_by_seed == 4


def test_a_teacher_without_steps_gives_texts_only(tmp_path):
    questions = list(opened(write(tmp_path), "flan"))
    assert [[record.text for record in records] for records in questions] == [
        ["It is 2"],
        ["It is 3"],
        [],
        [],
    ]
    assert questions[0][0].tokens == () and questions[0][0].label is None


def test_pieces_of_flan_spell_the_text(tmp_path):
    steps = [
        [("▁It", 0.5), ("▁So", 0.25)],
        [("▁is", 1.0)],
        [("▁2", 0.5), ("</s>", 0.5)],
        [("</s>", 1.0)],
        [("<pad>", 1.0)],
    ]
    write(tmp_path, flan_per_step_probs=[[steps], [steps], [], []])
    record = next(iter(opened(tmp_path, "flan")))[0]
    assert "".join(record.tokens).strip() == record.text == "It is 2"
    assert record.top_k[0] == ((" It", 0.5), (" So", 0.25))


def test_none_where_a_teacher_has_no_file(tmp_path):
    write(tmp_path, flan_predictions=None)
    assert seed_pickles.SeedSamples.open(tmp_path, "flan") is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"codex_questions": FILES["codex_questions"][:3]},
            r"codex_answers\.pkl has 4 records for 3 questions",
        ),
        (
            {
                "codex_questions": [
                    "Question 1: a",
                    "Question 1: b",
                    "Question 3: c",
                    "Question 4: d",
                ]
            },
            r"numbers \[1\]",
        ),
        ({"codex_questions": [*FILES["codex_questions"][:4], "no label"]}, "record 4|question 4"),
        (
            {"codex_questions": [*FILES["codex_questions"][:4], 7]},
            "record 4: expected a text, got int",
        ),
        ({"codex_answers": ["Answer: no mark"] * 4}, "record 0.*#### <number>"),
        (
            {"codex_predictions": [[TEXT, TEXT]] * 3 + ["text"]},
            r"record 3 of codex_predictions\.pkl: expected a list",
        ),
        (
            {"codex_predictions": [[TEXT, 5]] * 4},
            r"record 0, sample 1 of codex_predictions\.pkl: expected a text",
        ),
        (
            {"codex_predictions": [[TEXT, "It is 2"]] * 4},
            "sample 1.*'Model output <number>: ...', got 'It is 2'",
        ),
        (
            {"codex_per_step_probs": [[STEPS]] * 4},
            r"record 0 of codex_per_step_probs\.pkl: expected 2 values.*got 1",
        ),
        (
            {"codex_per_step_probs": [[STEPS, [[("a", "x")]]]] * 4},
            r"sample 1 of codex_per_step_probs\.pkl: expected steps",
        ),
        ({"codex_per_step_probs": [[STEPS, [[]]]] * 4}, "one at least in each"),
        ({"codex_per_step_probs": [[STEPS, [5]]] * 4}, "expected steps of"),
        # In a dictionary and a set, no candidate is the first; and "a1" would read as the pair ("a", 1.0).
        ({"codex_per_step_probs": [[STEPS, [{"a1": 0.5}]]] * 4}, "dict is no list or tuple"),
        ({"codex_per_step_probs": [[STEPS, [["a1"]]]] * 4}, "str is no list or tuple"),
        ({"codex_per_step_probs": [[STEPS, [{("a", 0.5)}]]] * 4}, "set is no list or tuple"),
        ({"codex_per_step_probs": [[STEPS, {0: [("a", 0.5)]}]] * 4}, "dict is no list or tuple"),
        ({"codex_prediction_labels": [[[0], [1]]] * 4}, r"expected labels 0 and 1, got \[\[0\], "),
        (
            {"codex_prediction_labels": [[0, 2]] * 4},
            r"codex_prediction_labels\.pkl: expected labels 0 and 1, got \[0, 2\]",
        ),
        ({"codex_prediction_labels": [[0]] * 4}, "expected 2 values"),
    ],
)
def test_other_shapes_are_named(tmp_path, changed, message):
    with pytest.raises(SeedFileError, match=message):
        list(opened(write(tmp_path, **changed)))


def example(kind="in_context_chain_of_thought", **changed):
    made = {
        "question": "Q: a\nLet's think step by step",
        "answer": "If so\nThe answer is 2",
        "answer_gold": "Answer: ...\n#### 2\n",
        "answer_label": 1,
        "type": kind,
        "per_step_probs": [{"▁If": 1.0}, collections.OrderedDict([("▁so", 0.5), ("▁Nat", 0.0001)])],
    }
    return {key: value for key, value in (made | changed).items() if value is not None}


def read(folder, kind, *examples):
    path = folder / f"{kind}.pkl"
    path.write_bytes(pickle.dumps(list(examples)))
    return list(seed_pickles.read_formatted(path))


def test_formatted_examples(tmp_path):
    found = read(tmp_path, "in_context_chain_of_thought", example(), example())
    assert [each.row for each in found] == [0, 1]
    assert found[0].input == "Q: a\nLet's think step by step"
    assert (found[0].target, found[0].gold) == ("If so\nThe answer is 2", "2")
    assert found[0].pieces == ({"▁If": 1.0}, {"▁so": 0.5, "▁Nat": 0.0001})
    kind = "zero_shot_answer_only"
    assert read(tmp_path, kind, example(kind, per_step_probs=None))[0].pieces == ()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": None}, r"record 1: expected texts under \['answer'\]"),
        (
            {"type": "zero_shot_chain_of_thought"},
            "record 1: expected type 'in_context_chain_of_thought'",
        ),
        ({"answer_label": 0}, "answer_label 1, got .* and 0"),
        ({"per_step_probs": None}, "in_context_cot with 0 entries"),
        ({"per_step_probs": [["▁If", 1.0]]}, "list of dictionaries"),
        ({"answer_gold": "72"}, "record 1: expected 'Answer: ...'"),
    ],
)
def test_formatted_examples_of_other_shapes_are_named(tmp_path, changed, message):
    with pytest.raises(SeedFileError, match=message):
        read(tmp_path, "in_context_chain_of_thought", example(), example(**changed))


def test_file_of_another_name(tmp_path):
    with pytest.raises(SeedFileError, match="expected one of zero_shot_answer_only"):
        seed_pickles.read_formatted(tmp_path / "negative.pkl")
