"""Large values that a function drags along: they arrive, and one warning names them."""

from __future__ import annotations

import warnings
from functools import partial

import betterbox
import pytest
from betterbox import LargeCaptureWarning, _captures

ITEMS = 200_000


@pytest.fixture(autouse=True)
def forget() -> None:
    _captures._looked_at.clear()
    _captures._given.clear()


def by_value(text: str, **known: object):
    """The function `f` of a text, as if it had been written in __main__."""
    space: dict[str, object] = {"__name__": "__main__", **known}
    exec(text, space)
    return space["f"]


def test_a_large_global_arrives_and_is_named_once(cluster):
    f = by_value("def f(x): return table[x] + str(len(table))", table=[str(n) * 3 for n in range(ITEMS)])
    with pytest.warns(LargeCaptureWarning, match=r"^f drags .*f>?\.table \(global\) \(list, \d\.\d MB\).*put") as seen:
        for _ in range(3):
            assert betterbox.map(f, [1, 2]).result() == [f"111{ITEMS}", f"222{ITEMS}"]
    assert len(seen) == 1


def test_it_is_as_it_was_at_the_moment_of_each_call(cluster):
    table = list(range(ITEMS * 4))
    f = by_value("def f(x): return table[x]", table=table)
    with pytest.warns(LargeCaptureWarning):
        first = betterbox.map(f, [0, 1])
    table[0] = "changed"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = betterbox.map(f, [0, 1])
    table[0] = "too late"
    assert first.result() == [0, 1]
    assert second.result() == ["changed", 1]


def test_changes_in_a_slot_are_not_seen_by_others(cluster):
    fixed = list(range(ITEMS * 4))
    f = by_value("def f(fixed, x):\n    fixed.append(x)\n    return len(fixed)")
    box = partial(f, fixed)
    assert min(betterbox.map(box, [1]).result()) == len(fixed) + 1
    assert min(betterbox.map(box, [1]).result()) == len(fixed) + 1


def test_arrays_in_closures_defaults_and_bound_objects_are_named():
    np = pytest.importorskip("numpy")
    array = np.zeros(1 << 18)

    class Model:
        def __init__(self) -> None:
            self.weights = array

        def run(self, x):
            return x

    def closed(x):
        return array[x]

    def default(x, a=array):
        return a[x]

    for fn, named in (
        (closed, "array (closed over) (ndarray, 2.1 MB)"),
        (default, "__defaults__[0] (ndarray, 2.1 MB)"),
        (Model().run, "weights (ndarray, 2.1 MB)"),
        (partial(closed, 1), "array (closed over) (ndarray, 2.1 MB)"),
    ):
        _captures._looked_at.clear()
        with pytest.warns(LargeCaptureWarning) as seen:
            _captures.look(fn)
        assert named in str(seen[0].message)
        assert seen[0].filename == __file__


def test_large_arguments_are_given_on_purpose(cluster):
    np = pytest.importorskip("numpy")
    array = np.ones(1 << 18)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [betterbox.submit(np.sum, array).result() for _ in range(3)] == [1 << 18] * 3
        assert betterbox.map(partial(np.add, array), [1]).result()[0].sum() == 2 << 18


def test_larger_arguments_are_named_when_they_come_again(cluster):
    np = pytest.importorskip("numpy")
    array, data = np.ones(1 << 20), b"x" * (5 << 20)
    for call, named in (
        (lambda: betterbox.submit(np.size, array), "args[0] (ndarray, 8.4 MB)"),
        (lambda: betterbox.submit(len, data), "args[0] (bytes, 5.2 MB)"),
        (lambda: betterbox.submit(np.add, betterbox.submit(abs, 1), array), "args[1] (ndarray, 8.4 MB)"),
        (lambda: betterbox.map(np.add, [1], out=array), "kwargs['out'] (ndarray, 8.4 MB)"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call()
        with pytest.warns(LargeCaptureWarning) as seen:
            call(), call()
        assert len(seen) == 1 and named in str(seen[0].message) and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            betterbox.submit(np.min, np.ones(1 << 20)).result()
    with pytest.warns(LargeCaptureWarning, match=r"keywords\['out'\] \(ndarray, 8.4 MB\)"):
        betterbox.map(partial(np.add, out=array), [1], [2]).result()


def test_warnings_come_in_programs_of_the_command_line(scripts):
    running = scripts.command(
        "-c", "from betterbox import _captures; d = b'x' * (2 << 20); _captures.look(lambda: d); print('went on')"
    )
    assert running.wait() == 0, running.output
    assert "<string>:1: LargeCaptureWarning: <lambda> drags" in running.output and "went on" in running.output
