"""The table of compiled plans: one row of figures in, one line of Markdown out; command lines of its rows. Nothing is compiled."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
GIB = 2**30


@pytest.fixture(scope="module")
def compile_table():
    spec = importlib.util.spec_from_file_location(
        "compile_table", ROOT / "scripts" / "compile_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(peak, beside=0.0, fits=True):
    return {"peak_bytes": peak * GIB, "beside_bytes": beside * GIB, "fits": fits, "collectives": {}}


def test_a_row_says_what_is_needed_and_by_how_much_the_plan_missed(compile_table):
    row = compile_table.Row("gsm8k_teacher_xl", "v5e:2x4", "fsdp=8", ("REMAT = 'full'",))
    assert row in compile_table.ROWS
    step = {**program(10.0), "collectives": {"all-gather": {"count": 7, "bytes": 3.5 * GIB}}}
    parts = ("parameter", "optimizer", "gradient", "activation", "batch")
    found = {
        row.name: {
            "topology": "v5e:2x4",
            "shape": [1, 8, 1],
            "usable_bytes": 15.75 * GIB,
            "step": step,
            "decoding": {"encode": program(1.0, 4.0), "advance": program(2.0, 14.0)},
            "restored": {"bytes": 4.0 * GIB},
            "plan": {f"{part}_bytes": 2.2 * GIB for part in parts},
            "versions": "2026-11-27, jax 1",
        }
    }
    assert compile_table.table(found).splitlines()[-1] == (
        "| gsm8k_teacher_xl `REMAT = 'full'` | v5e:2x4 | 1, 8, 1 | 15.75 | 10.00 | yes | 16.00, too much | 4.00 | 11.00 (+10%) "
        "| 7 all-gather 3.5 | 2026-11-27, jax 1 |"
    )
    line = compile_table.arguments(row, pathlib.Path("out.json"), step_only=False)
    assert line[2:] == [
        "--gin_file=gin/experiments/gsm8k_teacher_xl.gin",
        "--gin.REMAT='full'",
        "--mesh=fsdp=8",
        "--compile=v5e:2x4",
        "--json=out.json",
    ]


def test_every_row_names_a_leaf_and_a_slice_that_exist(compile_table):
    from cotdistill_jax.train import tpu_topologies

    for row in compile_table.ROWS:
        assert (ROOT / f"gin/experiments/{row.leaf}.gin").is_file(), row.name
        tpu_topologies.parse(row.topology)
