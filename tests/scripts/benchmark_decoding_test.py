"""The benchmark of decoding on a toy size: every system of ours answers, and the table says who wrote the same texts."""

import importlib.util
import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]


def test_the_table_and_the_file_have_every_system(tmp_path, capsys):
    path = ROOT / "scripts" / "benchmark_decoding.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(
        [
            *("--systems=ours,ours_int8", "--rounds=1", "--batch_size=4", "--our_batch_size=2"),
            *("--input_tokens=16", "--max_new_tokens=4", "--vocab_size=300", "--layers=1"),
            f"--json={tmp_path / 'rows.json'}",
        ]
    )
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["system"] for row in rows] == ["ours", "ours_int8"]
    assert [row["new_tokens"] for row in rows] == [16, 16]
    assert (rows[0]["same_texts"], rows[0]["ours_speedup"]) == (4, 1.0)
    printed = capsys.readouterr().out
    assert "4 prompts of 16 to 16 tokens, batch 4 (ours 2), at most 4 new tokens" in printed
