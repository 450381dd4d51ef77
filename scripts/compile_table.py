"""Compiles the leaves of base and above for the TPUs they name, one after the other, and keeps what the compiler says.

    nice python scripts/compile_table.py                      # about 3 hours on two cores; needs libtpu, no TPU
    nice python scripts/compile_table.py --only=xxl           # the rows whose leaf has this in its name

Writes scripts/compiled_plans.json after every row, and scripts/compiled_plans.md, the table. A row that is there already, by the
same versions of jax and libtpu, is not compiled again, so an interrupted table goes on; `--again` compiles all.
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags

from cotdistill_jax import command, files

_ONLY = flags.DEFINE_string("only", "", "Part of the leaf's name.")
_AGAIN = flags.DEFINE_bool("again", False, "Compile rows that are there already, too.")
_STEP_ONLY = flags.DEFINE_bool("step_only", False, "Not the evaluation's decoding, nor the plan.")
_FOLDER = flags.DEFINE_string(
    "output_dir", str(pathlib.Path(__file__).parent), "Where the two files are."
)
GIB = 2**30


class Row(NamedTuple):
    """A leaf with bindings, a slice and a mesh; an empty mesh is the one that the leaf chooses."""

    leaf: str
    topology: str
    mesh: str = ""
    bindings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the row is called in both files."""
        return " ".join(
            [self.leaf, *self.bindings, self.topology, *([self.mesh] if self.mesh else [])]
        )


# Leaves that are not here have the programs of one that is: seed_* those of gsm8k_teacher_* (seed_xl_same_question those of _xl),
# gsm8k_teacher_xl_from_t5_1_1 those of gsm8k_teacher_xl.
_FULL = ("REMAT = 'full'",)
ROWS = (
    Row("gsm8k_teacher_xxl_16gib", "v5e:4x4"),
    Row("gsm8k_teacher_xxl", "v5p:2x2x4", "fsdp=4,model=4"),
    Row("gsm8k_teacher_xxl", "v4:2x2x4", "fsdp=4,model=4"),
    Row("gsm8k_teacher_xl", "v5e:2x4", "fsdp=8", _FULL),
    Row("gsm8k_teacher_xl", "v4:2x2x2", "fsdp=8"),
    Row("gsm8k_teacher_xl", "v5p:2x2x2", "fsdp=8"),
    Row("gsm8k_teacher_xl", "v6e:2x4", "fsdp=8"),
    Row("gsm8k_teacher_base", "v4:1x1x1"),
    Row("gsm8k_teacher_base", "v5p:1x1x1"),
    Row("gsm8k_teacher_base", "v5e:1x1"),
    Row("gsm8k_teacher_large", "v4:1x1x1"),
    Row("gsm8k_teacher_large", "v5p:1x1x1"),
    Row("gsm8k_teacher_large_from_t5", "v4:1x1x1"),
    Row("gsm8k_teacher_xl_from_t5", "v4:2x2x2", "fsdp=8"),
    Row("gsm8k_teacher_xl_in_context", "v4:2x2x2", "fsdp=8"),
    Row("gsm8k_teacher_xl_same_question", "v4:2x2x2", "fsdp=8"),
    Row("gsm8k_teacher_xl_same_question", "v5e:2x4", "fsdp=8"),
    Row("gsm8k_teacher_xl_sample_matching", "v4:2x2x2", "fsdp=8"),
    Row("gsm8k_teacher_xl_zero_shot", "v4:2x2x2", "fsdp=8"),
    Row("gsm8k_teacher_xl_zero_shot", "v5e:2x4", "fsdp=8"),
    Row("seed_xl_contrastive", "v4:2x2x2", "fsdp=8"),
    Row("gsm8k_verifier", "v4:1x1x1"),
)  # fmt: skip


def arguments(row: Row, output: pathlib.Path, step_only: bool) -> list[str]:
    """Returns the command line that compiles a row."""
    script = pathlib.Path(__file__).with_name("plan_run.py")
    line = [sys.executable, str(script), f"--gin_file=gin/experiments/{row.leaf}.gin"]
    line += [f"--gin.{binding.replace(' = ', '=', 1)}" for binding in row.bindings]
    line += [f"--mesh={row.mesh}"] if row.mesh else []
    line += ["--step_only", "--noplan"] if step_only else []
    return [*line, f"--compile={row.topology}", f"--json={output}"]


def total(program: Mapping[str, Any]) -> float:
    """Returns GiB of a device while a program runs."""
    return (program["peak_bytes"] + program["beside_bytes"]) / GIB


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the rows that are there as a Markdown table, in the order of `ROWS`."""
    lines = [
        "# What the TPU's compiler says of the leaves",
        "",
        "By `python scripts/compile_table.py`; GiB of a device. Step: the optimizer step, state included. Evaluation: the largest of its",
        "programs, the run's state included. Plan: what `train.planning` says of the step, and by how much it misses.",
        "",
        "| leaf | slice | data, fsdp, model | usable | step | fits | evaluation | restored | plan | collectives of a step | versions |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        if (each := found.get(row.name)) is None:
            continue
        step, plan, usable = each["step"], each["plan"], each["usable_bytes"] / GIB
        evaluation = max((total(program) for program in each["decoding"].values()), default=None)
        planned = plan and sum(plan[f"{part}_bytes"] for part in ("parameter", "optimizer", "gradient", "activation", "batch"))  # fmt: skip
        sent = ", ".join(
            f"{traffic['count']} {kind} {traffic['bytes'] / GIB:.1f}"
            for kind, traffic in step["collectives"].items()
        )
        cells = [
            " ".join([row.leaf, *(f"`{binding}`" for binding in row.bindings)]),
            row.topology,
            ", ".join(map(str, each["shape"])),
            f"{usable:.2f}",
            f"{total(step):.2f}",
            "yes" if step["fits"] else "no",
            "not compiled" if evaluation is None else f"{evaluation:.2f}" + ("" if evaluation <= usable else ", too much"),
            f"{each['restored']['bytes'] / GIB:.2f}",
            f"{planned / GIB:.2f} ({planned / step['peak_bytes'] - 1:+.0%})" if planned else "not made",
            sent or "none",
            each["versions"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"compile_table: unexpected arguments {list(argv[1:])}")
    os.environ["JAX_PLATFORMS"] = "cpu"
    from cotdistill_jax.train import tpu_topologies

    tpu_topologies.check_installed()
    folder = files.as_path(_FOLDER.value)
    kept = folder / "compiled_plans.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    now = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu")]
    failed = []
    for row in ROWS:
        present = all(version in found.get(row.name, {}).get("versions", "") for version in now)
        if _ONLY.value not in row.leaf or (present and not _AGAIN.value):
            continue
        print(f"== {row.name}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            output = pathlib.Path(scratch) / "row.json"
            if subprocess.run(arguments(row, output, _STEP_ONLY.value), check=False).returncode:
                failed.append(row.name)
                continue
            (found[row.name],) = json.loads(output.read_text(encoding="utf-8"))
        kept.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "compiled_plans.md").write_text(table(found), encoding="utf-8")
    if failed:
        sys.exit(
            f"compile_table: {len(failed)} rows failed: {'; '.join(failed)}; the others are in {kept}"
        )


if __name__ == "__main__":
    command.run(app.run, main)
