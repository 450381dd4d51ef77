"""Pictures and pages: what a person looks at. Neither jax nor TensorFlow is needed.

| file | holds |
|---|---|
| `run_files.py` | a run on disk, read |
| `run_report.py` | the report of a run: `python -m cotdistill_jax.report --run=...` |
| `curves.py`, `trade_off.py` | training curves; accuracy by checkpoint and against other benchmarks |
| `checkpoint_choice.py` | the best checkpoints on the development sets, and the table |
| `references.py` | accuracies that the paper's code printed |
| `predictions_table.py` | all predictions as one JSON value for the report's table |
| `token_rows.py` | tokens of a teacher record and where they lie in its text |
| `flow.py`, `heat_map.py` | token probabilities as bars and as a map of candidates |
| `alignment_links.py`, `alignment_picture.py` | teacher tokens over student pieces |
| `pictures.py` | pictures of a record's tokens into files |
| `watch.py` | a run in the terminal while it trains |
| `figures.py`, `text_lines.py`, `page.py`, `templates/` | how pictures and pages are made |
"""

from cotdistill_jax.report.run_files import read_run
from cotdistill_jax.report.run_report import write_report

__all__ = ["read_run", "write_report"]
