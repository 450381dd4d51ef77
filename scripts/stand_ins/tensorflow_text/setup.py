"""`tensorflow-text` for Python 3.14, for which PyPI has none; SentencePiece only."""

import setuptools

setuptools.setup(
    name="tensorflow-text",
    version="2.22+sentencepiece",
    py_modules=["tensorflow_text"],
    install_requires=["sentencepiece>=0.2.1", "tensorflow>=2.22.0rc0"],
)
