"""Pickles that may hold anything: what is loaded, what is refused by name, and that nothing of it runs."""

import collections
import copyreg
import functools
import os
import pathlib
import pickle
import pickletools
import random
import struct

import numpy as np
import pytest

from cotdistill_jax.teacher import restricted_pickle
from cotdistill_jax.teacher.restricted_pickle import (
    PickledList,
    PickleFileError,
    RefusedPickleError,
)

ITEMS = [
    "Question 0: What is 1 + 1?\n",
    [[[(" step", 1.0), ("\n", 0.0)], [("'<<'|||>>\\", 0.25)]]],
    collections.OrderedDict([("▁If", 0.5), ("▁Nat", 0.25)]),
    {"per_step_probs": [{"▁If": 1.0}, collections.OrderedDict([("a", 0.5)]), {}], "label": 1},
    [],
    [[], [None, True, False, -1, 70_000, 10**30, -0.5], ()],
    [("a", "b", "c", "d"), "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")],
    "x" * 70_000,
]


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "codex_questions.pkl"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("items", [ITEMS, [], ["a"], [["a"]], list("abcab") * 700])
def test_loads_containers_numbers_and_strings(path, protocol, items):
    path.write_bytes(pickle.dumps(items, protocol=protocol))
    loaded = PickledList(path)
    assert len(loaded) == len(items)
    assert list(loaded) == items
    assert list(loaded) == items  # and a second time


def test_keeps_the_order_of_an_ordered_dict(path):
    path.write_bytes(pickle.dumps([collections.OrderedDict([("b", 1), ("a", 2)])]))
    assert list(next(iter(PickledList(path)))) == ["b", "a"]


def test_strings_of_earlier_items_are_filled_in(path):
    shared = "shared by all"
    path.write_bytes(pickle.dumps([{shared: number, "n": shared} for number in range(3000)]))
    assert list(PickledList(path))[2999] == {shared: 2999, "n": shared}


def test_loads_one_item_at_a_time(path, monkeypatch):
    loaded = []

    class Counting(restricted_pickle._Containers):
        def load(self):
            loaded.append(1)
            return super().load()

    monkeypatch.setattr(restricted_pickle, "_Containers", Counting)
    path.write_bytes(pickle.dumps([[number] for number in range(5000)]))
    items = iter(PickledList(path))
    assert (next(items), next(items)) == ([0], [1])
    assert len(loaded) == 2


def test_says_what_the_largest_item_needs(path):
    path.write_bytes(pickle.dumps(["a", "b" * 1000]))
    assert 10_000 <= PickledList(path).bytes_needed <= 10_200


class Calls:
    """An object that calls something when it is unpickled."""

    def __init__(self, *reduced):
        self._reduced = reduced

    def __reduce__(self):
        return self._reduced


def wrapped(call: bytes) -> bytes:
    """A pickle of protocol 2 whose list holds an item, then what `call` leaves on the stack."""
    return b"\x80\x02](X\x01\x00\x00\x00a" + call + b"e."


EXECUTED = "executed"
MALICIOUS = {
    "os.system": (pickle.dumps(["a", Calls(os.system, (f"touch {EXECUTED}",))]), "posix.system"),
    "eval": (pickle.dumps(["a", Calls(eval, (f"open('{EXECUTED}', 'w')",))]), "builtins.eval"),
    "eval, protocol 2": (
        pickle.dumps(["a", Calls(eval, (f"open('{EXECUTED}', 'w')",))], protocol=2),
        "__builtin__.eval",
    ),
    "partial": (pickle.dumps(["a", functools.partial(open, EXECUTED, "w")]), "functools.partial"),
    "numpy objects": (
        pickle.dumps(["a", np.array([Calls(os.system, (f"touch {EXECUTED}",))], object)], 4),
        "posix.system",
    ),
    "a call beside numpy's": (
        pickle.dumps([np.int64(1), Calls(os.system, (f"touch {EXECUTED}",))], 2),
        "posix.system",
    ),
    "numpy by another name": (wrapped(b"cnumpy\nload\nX\x01\x00\x00\x00a\x85R"), "numpy.load"),
    "numpy texts": (pickle.dumps([np.array(["a"])], 4), "U1"),
    "numpy dates": (pickle.dumps([np.datetime64("2020-01-01")], 4), "M8"),
    "numpy records": (pickle.dumps([np.zeros(1, "i4,i4")], 4), "V8"),
    "numpy out of band": (pickle.dumps([np.arange(3)], 5), "_frombuffer"),
    "class by a stack global": (pickle.dumps(["a", pathlib.Path]), "pathlib"),
    "protocol 0": (f"(lp0\ncposix\nsystem\n(S'touch {EXECUTED}'\ntRa.".encode(), "posix.system"),
    "GLOBAL alone": (b"cposix\nsystem\n.", "posix.system"),
    "GLOBAL and REDUCE": (
        wrapped(f"cposix\nsystem\nX\x08\x00\x00\x00{EXECUTED}\x85R".encode()),
        "posix.system",
    ),
    "INST": (wrapped(f"(X\x08\x00\x00\x00{EXECUTED}iposix\nsystem\n".encode()), "posix.system"),
    "OBJ": (wrapped(f"(cposix\nsystem\nX\x08\x00\x00\x00{EXECUTED}o".encode()), "posix.system"),
    "NEWOBJ": (wrapped(b"csubprocess\nPopen\nX\x02\x00\x00\x00ls\x85\x81"), "subprocess.Popen"),
    "NEWOBJ of the allowed class": (wrapped(b"ccollections\nOrderedDict\n)\x81"), "NEWOBJ"),
    "BUILD on the allowed class": (wrapped(b"ccollections\nOrderedDict\n}b"), "BUILD"),
    "other name of the module": (wrapped(b"ccollections\nChainMap\n)R"), "collections.ChainMap"),
    "dotted name": (wrapped(b"ccollections\nOrderedDict.fromkeys\n)R"), "OrderedDict.fromkeys"),
    "call of a string": (wrapped(b"X\x01\x00\x00\x00a)R"), "a call of something"),
    "STACK_GLOBAL through the memo": (
        b"\x80\x04](\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93)Re.",
        "posix.system",
    ),
    "STACK_GLOBAL of memoized names": (
        b"\x80\x04](\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93)Re.",
        "posix.system",
    ),
    "persistent id": (wrapped(b"Pexecuted\n"), "persistent id"),
    "binary persistent id": (wrapped(b"X\x01\x00\x00\x00aQ"), "persistent id"),
    "extension": (wrapped(b"\x82\xf0"), "extension registry"),
    "bytes": (pickle.dumps(["a", b"bytes"]), "BINBYTES"),
    "no opcode": (wrapped(b"\xff"), "0xff"),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_refuses_and_runs_nothing(path, name, monkeypatch, tmp_path):
    content, named = MALICIOUS[name]
    monkeypatch.chdir(tmp_path)
    path.write_bytes(content)
    imported = []
    monkeypatch.setattr(restricted_pickle._Containers, "find_class", lambda *a: imported.append(a))
    with pytest.raises(PickleFileError, match=r"codex_questions\.pkl record") as error:
        list(PickledList(path))
    assert isinstance(error.value, RefusedPickleError)
    assert named in str(error.value)
    assert not (tmp_path / EXECUTED).exists()
    assert imported == []


def test_the_payloads_do_run_where_nothing_is_refused(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pickle.loads(MALICIOUS["os.system"][0])
    assert (tmp_path / EXECUTED).exists()


def test_refuses_an_extension_that_is_cached(path):
    copyreg.add_extension("posix", "system", 0xF0)
    try:
        copyreg._extension_cache[0xF0] = os.system
        path.write_bytes(wrapped(b"\x82\xf0"))
        with pytest.raises(RefusedPickleError, match="extension registry"):
            PickledList(path)
    finally:
        copyreg.remove_extension("posix", "system", 0xF0)


def test_the_second_lock_refuses_too():
    import io

    with pytest.raises(pickle.UnpicklingError, match=r"posix\.system"):
        restricted_pickle._Containers(io.BytesIO(b"cposix\nsystem\n.")).load()


def test_refusal_names_record_and_byte(path):
    path.write_bytes(pickle.dumps([*ITEMS, Calls(os.system, ("true",))]))
    with pytest.raises(RefusedPickleError, match=rf"record {len(ITEMS)} \(byte [0-9,]+ of"):
        PickledList(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_every_truncation_names_the_record(path, protocol):
    items = [["a", 1.5], {"b": "c"}, "d"]
    whole = pickle.dumps(items, protocol=protocol)
    records = set()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(PickleFileError, match=r"record (\d) .*truncated") as error:
            PickledList(path)
        records.add(int(str(error.value).split("record ")[1][0]))
    assert records == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Question 0: no pickle at all\n", "refused|no pickle|list"),
        (b"PK\x03\x04" + bytes(50), "refused|no pickle|list"),
        (pickle.dumps({"a": 1}), "expected a pickled list"),
        (pickle.dumps(["a"]) + b"more", "no pickle"),
        (b"\x80\x02]e.", "no pickle"),
        (b"\x80\x02]h\x05a.", "no pickle"),
        (b"\x80\x02]\x8d" + struct.pack("<Q", 2**63 + 5) + b"a", "truncated"),
        (b"\x80\x02](]X\x01\x00\x00\x00aue.", "no pickle|record 0"),
    ],
)
def test_foreign_files_are_clear_errors(path, content, message):
    path.write_bytes(content)
    with pytest.raises(PickleFileError, match=message):
        list(PickledList(path))


def test_items_that_share_a_container_are_loaded_at_once_with_a_warning(path):
    shared = ["a"]
    path.write_bytes(pickle.dumps(["first", shared, shared, (shared, 1)]))
    with pytest.warns(UserWarning, match=r"record 2 refers to a list .* about 0 MiB"):
        assert list(PickledList(path)) == ["first", shared, shared, (shared, 1)]


def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match=r"codex_questions\.pkl"):
        PickledList(path)


def test_damaged_bytes_give_errors_and_never_crash(path):
    whole, draw, refused = pickle.dumps(ITEMS[:-1]), random.Random(0), 0
    for _ in range(1500):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            list(PickledList(path))
        except PickleFileError:
            refused += 1
    assert 500 < refused < 1500


# As Python 2.7 wrote them (pickle and cPickle, protocols 0 to 2): strings are bytes, the memo counts from 1, numbers may be long.
PYTHON_2 = {
    "protocol 0": b"(lp1\nS'caf\\xc3\\xa9'\np2\naI12\naL34L\naF0.5\na(lp3\nVna\xefve\np4\nag2\naa.",
    "protocol 1": b"]q\x01(U\x05caf\xc3\xa9q\x02K\x0cL34L\nG?\xe0\x00\x00\x00\x00\x00\x00]q\x03(X\x06\x00\x00\x00na\xc3\xafveq\x04h\x02ee.",
    "protocol 2": b"\x80\x02]q\x01(U\x05caf\xc3\xa9q\x02K\x0c\x8a\x01\x22G?\xe0\x00\x00\x00\x00\x00\x00]q\x03(X\x06\x00\x00\x00na\xc3\xafveq\x04h\x02ee.",
}


@pytest.mark.parametrize("name", PYTHON_2)
def test_pickles_of_python_2_are_read(path, name):
    path.write_bytes(PYTHON_2[name])
    items = PickledList(path)
    assert list(items) == ["café", 12, 34, 0.5, ["naïve", "café"]]
    assert len(items) == 5


def test_strings_of_python_2_that_are_no_utf_8_are_latin_1(path):
    path.write_bytes(b"\x80\x02]q\x01U\x04caf\xe9q\x02a.")
    assert list(PickledList(path)) == ["café"]


def test_a_string_that_is_no_utf_8_leaves_the_others_as_they_are(path):
    path.write_bytes(b"\x80\x02]q\x01(U\x05caf\xc3\xa9q\x02U\x04caf\xe9q\x03h\x02e.")
    assert list(PickledList(path)) == ["café", "café", "café"]


@pytest.mark.parametrize("name", PYTHON_2)
def test_every_truncation_of_a_pickle_of_python_2_is_named(path, name):
    whole = PYTHON_2[name]
    for size in range(5, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(PickleFileError, match="truncated"):
            PickledList(path)


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("second", [["b"], "b"])
def test_several_pickles_in_one_file_are_named(path, protocol, second):
    path.write_bytes(pickle.dumps(["a"], protocol) + pickle.dumps(second, protocol))
    with pytest.raises(PickleFileError, match=r"record 1 .* holds several pickles"):
        PickledList(path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [(["a"], ["b"]), (["a"],), (["a"], ["b"], ["c"]), tuple([[1]] * 5), {"a": ["b"]}, "a", {"a"}],
)
def test_what_is_no_list_is_refused_whatever_lists_it_holds(path, protocol, value):
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(PickleFileError):
        PickledList(path)


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize(
    ("value", "named"),
    [
        ((["a"], ["b"]), "tuple"),
        ({"a": {"b": ["c"]}}, "dict"),
        ("a", "str"),
        (None, "NoneType"),
        (iter(["a"]), r"\.iter"),
        (collections.deque([["a"]]), r"collections\.deque"),
        (np.array([["a"]], object), "numpy"),
    ],
)
def test_what_is_no_list_is_named(path, protocol, value, named):
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(PickleFileError, match=named):
        PickledList(path)


def test_sets_of_python_2_are_refused_by_name(path):
    path.write_bytes(b"\x80\x02]q\x01c__builtin__\nset\nq\x02]q\x03U\x01aq\x04a\x85q\x05Rq\x06a.")
    with pytest.raises(RefusedPickleError, match=r"__builtin__\.set"):
        PickledList(path)


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])  # NumPy 2 and 1
def test_numbers_of_numpy_are_read_as_numbers(path, protocol, module):
    """As labels are pickled where somebody compared arrays."""
    labels = [
        [np.int64(1), np.bool_(False), np.float32(0.5), 1],
        np.array([1, 0, 1]),
        np.array([[True], [False]]),
        np.array([1, 2], ">i2"),
        np.zeros(0),
    ]
    content = pickletools.optimize(pickle.dumps(labels, protocol))
    name = f"{module}.multiarray".encode()
    for before in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        content = content.replace(bytes([len(before)]) + before, bytes([len(name)]) + name)
        content = content.replace(before, name)
    path.write_bytes(_without_frames(content))
    items = list(PickledList(path))
    assert items == [[1, False, 0.5, 1], [1, 0, 1], [[True], [False]], [1, 2], []]
    assert [type(item) for item in items[0]] == [int, bool, float, int]


def _without_frames(content: bytes) -> bytes:
    """Returns a pickle whose names may have changed their lengths."""
    frames = [at for opcode, _, at in pickletools.genops(content) if opcode.name == "FRAME"]
    for at in reversed(frames):
        content = content[:at] + content[at + 9 :]
    return content


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "Git LFS pointer"),
        (b"<html>Not found</html>", "web page"),
        (b"\x1f\x8b\x08", "gzip"),
    ],
)
def test_what_lies_there_instead_is_named(path, content, named):
    path.write_bytes(content)
    with pytest.raises(PickleFileError, match=named):
        PickledList(path)
