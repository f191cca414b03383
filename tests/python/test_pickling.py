"""Pickles: by name where that is right, by value where it is not, errors that name the culprit."""

from __future__ import annotations

import pickle
import threading
from types import ModuleType
from typing import Any

import pytest
from betterbox import SerializationError
from betterbox._pickling import dump, dumps, shipping


class Model:
    def __init__(self) -> None:
        self.weights = [1.0]
        self._lock = threading.Lock()


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


def round_trip(obj: Any) -> Any:
    data, buffers = dump(obj, "x")
    return pickle.loads(data, buffers=buffers)


def test_plain_values_survive() -> None:
    for value in ([1, "a", None], {"k": (1, 2)}, {1, 2}, Slotted(3).inner, 10**30):
        assert round_trip(value) == value


def test_importable_functions_go_by_name() -> None:
    assert round_trip(round_trip) is round_trip


def test_lambdas_and_local_classes_go_by_value() -> None:
    class Local:
        value = 7

    assert round_trip(lambda x: x + 1)(1) == 2
    assert round_trip(Local()).value == 7


def test_large_buffers_stay_out_of_the_pickle() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000.0).reshape(100, 1000)
    data, buffers = dump({"a": array, "t": array.T}, "x")
    assert len(data) < 1000 and len(buffers) >= 1
    assert (pickle.loads(data, buffers=buffers)["t"] == array.T).all()


def test_large_bytes_and_texts_stay_out_of_the_pickle_wherever_they_are() -> None:
    numpy = pytest.importorskip("numpy")
    data, text, changing = b"x" * 300_000, "\ud800é" * 200_000, bytearray(b"q" * 400_000)
    array = numpy.arange(50_000.0)
    for obj in (data, text, changing, [data, text, data], {"k": (array, data, array * 2, [changing, lambda: data])}):
        pickled, buffers = dump(obj, "x")
        assert len(pickled) < 2000
        back = pickle.loads(pickled, buffers=[bytearray(buffer.raw()) for buffer in buffers])
        if isinstance(obj, dict):
            assert (back["k"][0] == array).all() and (back["k"][2] == array * 2).all() and back["k"][1] == data
            assert back["k"][3][0] == changing and back["k"][3][1]() == data
        else:
            assert back == obj and type(back) is type(obj)
    many = [data, data]
    pickled, buffers = dump(many, "x")
    back = pickle.loads(pickled, buffers=buffers)
    assert len(buffers) == 1 and back[0] is back[1] == data


def test_shipped_modules_go_by_value() -> None:
    module = ModuleType("shipped_module")
    exec("def f():\n    return 41 + 1", module.__dict__)
    import sys

    sys.modules["shipped_module"] = module
    try:
        with shipping((module,)):
            data = dumps(module.f, "fn")
    finally:
        del sys.modules["shipped_module"]
    assert pickle.loads(data)() == 42


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        ((Model(),), "args[0]._lock"),
        (({"model": Model()},), "args[0]['model']._lock"),
        ([Slotted([0, threading.Lock()])], "args[0].inner[1]"),
        ((1, (x for x in ())), "args[1]"),
    ],
)
def test_errors_name_the_path_to_the_culprit(obj: Any, path: str) -> None:
    with pytest.raises(SerializationError) as caught:
        dump(obj, "args")
    assert str(caught.value).startswith(path + " ")


def test_errors_name_what_a_function_closes_over() -> None:
    lock = threading.Lock()

    def locked() -> None:
        lock.acquire()

    with pytest.raises(SerializationError, match=r"lock \(closed over\)"):
        dump(locked, "fn")
