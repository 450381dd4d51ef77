"""`editdistance` without its C++: the one on PyPI has no wheel for Python 3.13 and later and needs a compiler there."""

import setuptools

setuptools.setup(name="editdistance", version="0.8.1+python", py_modules=["editdistance"])
