"""What the model sees and what it thinks of it: mixtures opened up, texts scored token by token.

| file | holds |
|---|---|
| `student.py` | how probable our student finds a text, as teacher records (needs jax) |
"""
