"""What the model sees and what it thinks of it: mixtures opened up, texts scored token by token.

| file | holds |
|---|---|
| `mixture.py` | `inspect`: everything `scripts/inspect_mixture.py` shows |
| `examples.py` | examples piece by piece, with the teacher's candidates |
| `effective.py` | share of each task by example, token and gradient; lengths; repetitions |
| `leakage.py` | questions that benchmarks share |
| `layout.py` | how examples are packed in rows |
| `terminal.py`, `web_page.py` | the two views |
| `student.py` | how probable our student finds a text, as teacher records (needs jax) |

Modules are imported by name: most of them bring TensorFlow along, `student` brings jax.
"""
