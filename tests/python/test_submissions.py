"""Single submissions: a function's pickle is used again only while it would come out the same."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import betterbox
import pytest
import work
from betterbox import _submissions
from helpers import LONG, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


def _made(source: str, **names: Any) -> Callable[..., Any]:
    """The function `f` of a text, as a script or a notebook would have it: no module holds it."""
    space = {"__name__": "__main__", **names}
    exec(compile(source, "<made>", "exec", dont_inherit=True), space)
    made: Callable[..., Any] = space["f"]
    return made


def _twice(fn: Callable[..., Any], change: Callable[[], object]) -> tuple[Any, Any]:
    before = [betterbox.submit(fn) for _ in range(3)]
    change()
    after = [betterbox.submit(fn) for _ in range(3)]
    values = [promise.result() for promise in before], [promise.result() for promise in after]
    assert all(len({repr(value) for value in part}) == 1 for part in values)
    return values[0][0], values[1][0]


def test_a_function_that_stays_the_same_is_pickled_once() -> None:
    fn = _made("def f(x): return x + 1")
    assert [betterbox.submit(fn, i).result() for i in range(5)] == [1, 2, 3, 4, 5]
    assert fn in _submissions.submitters


@pytest.mark.parametrize("hint", ["int", "int | None", "dict[str, list[int]]", "tuple[int, ...]", "'later'", "None", "Path", "Any"])
def test_a_function_with_annotations_is_pickled_once(hint: str) -> None:
    fn = _made(f"def f(x: {hint}, y: int = 2) -> {hint}: return x, f.__annotations__['x']", Path=Path, Any=Any)
    fn.__globals__["f"] = fn
    results = [betterbox.submit(fn, i).result() for i in range(5)]
    assert results == [(i, fn.__annotations__["x"]) for i in range(5)]
    assert fn in _submissions.submitters


def test_annotations_that_may_change_unseen_are_pickled_each_time() -> None:
    class Here: ...

    for hint in (Here, list[Here], [1], {"a": 1}):
        fn = _made("def f(x: hint): return x", hint=hint)
        del fn.__globals__["hint"]
        assert [betterbox.submit(fn, i).result() for i in range(3)] == [0, 1, 2]
        assert fn not in _submissions.submitters


def test_changed_annotations_are_seen() -> None:
    def annotated() -> Any:
        fn = _made("def f(x: int = 1) -> int: return sorted((k, v.__name__) for k, v in f.__annotations__.items())")
        fn.__globals__["f"] = fn
        return fn

    before = [("return", "int"), ("x", "int")]
    fn = annotated()
    assert _twice(fn, lambda: fn.__annotations__.update(x=str)) == (before, [("return", "int"), ("x", "str")])
    fn = annotated()
    assert _twice(fn, lambda: fn.__annotations__.update(z=str)) == (before, [*before, ("z", "str")])
    fn = annotated()
    assert _twice(fn, lambda: setattr(fn, "__annotations__", {"x": str})) == (before, [("x", "str")])


@pytest.mark.parametrize(
    "value", [None, True, False, 0, 1, -(1 << 63), 1 << 63, 1.5, float("inf"), "", "text", b"", b"bytes", (1, [2]), {3: 4}]
)
def test_arguments_and_results_keep_their_types(value: Any) -> None:
    for _ in range(2):  # the long way, then the quick one
        result = betterbox.submit(work.noop, value).result()
        assert result == value and type(result) is type(value)


def test_arguments_by_keyword_arrive_on_the_quick_way() -> None:
    assert [betterbox.submit(work.join, 1, 2, sep=s).result() for s in "+-*"] == ["1+2", "1-2", "1*2"]


def test_a_changed_global_is_seen_by_the_next_submission() -> None:
    fn = _made("def f(): return n", n=1)
    assert _twice(fn, lambda: fn.__globals__.update(n=2)) == (1, 2)


def test_a_global_that_hides_a_builtin_is_seen() -> None:
    fn = _made("def f(): return len('abc')")
    assert _twice(fn, lambda: fn.__globals__.update(len=work.noop)) == (3, "abc")


def test_a_changed_helper_is_seen() -> None:
    helper = _made("def f(): return 1")
    fn = _made("def f(): return helper()", helper=helper)

    def change() -> None:
        helper.__code__ = _made("def f(): return 2").__code__

    assert _twice(fn, change) == (1, 2)


def test_a_changed_list_among_the_globals_is_seen() -> None:
    values = [1]
    assert _twice(_made("def f(): return values", values=values), lambda: values.append(2)) == ([1], [1, 2])


def test_a_changed_closure_is_seen() -> None:
    n = 1

    def fn() -> int:
        return n

    def change() -> None:
        nonlocal n
        n = 2

    assert _twice(fn, change) == (1, 2)


def test_changed_defaults_and_attributes_are_seen() -> None:
    fn: Any = _made("def f(n=1): return n, getattr(f, 'mark', None)")
    fn.__globals__["f"] = fn

    def change() -> None:
        fn.__defaults__ = (2,)
        fn.mark = 3

    assert _twice(fn, change) == ((1, None), (2, 3))


def test_an_argument_changed_after_the_submission_is_not_seen() -> None:
    values = [1]
    promise = betterbox.submit(work.noop, values)
    values.append(2)
    assert promise.result() == [1]


def test_the_working_folder_and_the_path_of_the_moment_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fn = _made("def f():\n import os, sys\n return os.getcwd(), sys.path[0]")
    assert [betterbox.submit(fn).result()[0] for _ in range(2)] == [os.getcwd()] * 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert betterbox.submit(fn).result() == (str(tmp_path), str(tmp_path))


def test_a_submission_can_be_iterated_like_any_call() -> None:
    fn = _made("def f(x): return x")
    promises = [betterbox.submit(fn, i) for i in range(4)]
    assert [list(promise) for promise in promises] == [[0], [1], [2], [3]]
    assert [list(promise.as_completed()) for promise in promises] == [[(0, 0)], [(0, 1)], [(0, 2)], [(0, 3)]]
    assert [promise.all() for promise in promises] == [[0], [1], [2], [3]]
    assert [promise.any() for promise in promises] == [0, 1, 2, 3]
    assert promises[0].progress() == (1, 1) and "f()" in repr(promises[0])


def test_a_forked_child_does_not_use_the_submitters_of_its_parent() -> None:
    fn = _made("def f(): return 1")
    assert betterbox.submit(fn).result() == 1
    child = os.fork()
    if child == 0:
        try:
            betterbox.submit(fn)
        except betterbox.BusError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_forked_child_is_refused_the_promises_of_its_parent() -> None:
    promises = [betterbox.submit(work.noop, i) for i in range(50)]
    promises[0].result()
    child = os.fork()
    if child == 0:
        uses: list[Callable[[], object]] = [
            promises[-1].result,
            promises[-1].cancel,
            promises[-1].done,
            lambda: promises[-1].add_done_callback(print),
        ]
        refused = 0
        for use in uses:
            try:
                use()
            except betterbox.BusError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert [promise.result() for promise in promises] == list(range(50))


class Held:
    """Something that can be watched."""


def test_a_callback_that_has_run_is_let_go() -> None:
    called = threading.Event()
    held = Held()
    watched = weakref.ref(held)

    def callback(_: Any, held: Held = held) -> None:
        called.set()

    betterbox.submit(work.noop, 1).add_done_callback(callback)
    assert called.wait(LONG)
    del callback, held
    wait_until(lambda: gc.collect() >= 0 and watched() is None, "what it held is free", 5)


def test_callbacks_that_raise_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    called: list[Any] = []
    everybody = threading.Event()

    def raises(promise: betterbox.Promise[Any]) -> None:
        called.append(promise.result())
        if len(called) == 200:
            everybody.set()
        raise ValueError("on purpose")

    for i in range(200):
        betterbox.submit(work.noop, i).add_done_callback(raises)
    assert everybody.wait(LONG)
    assert sorted(called) == list(range(200))
    assert betterbox.submit(work.noop, 1).result(LONG) == 1


def test_a_callback_may_submit_and_wait() -> None:
    found: list[int] = []
    done = threading.Event()

    def again(promise: betterbox.Promise[int]) -> None:
        found.append(betterbox.submit(work.double, promise.result()).result(LONG))
        done.set()

    betterbox.submit(work.double, 3).add_done_callback(again)
    assert done.wait(LONG) and found == [12]


def test_promises_that_nobody_reads_keep_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

    def drop(count: int) -> int:
        for i in range(count):
            betterbox.submit(work.noop, i)
        betterbox.submit(work.noop, 0).result(LONG)
        gc.collect()
        return resident()

    first = drop(50_000)
    assert max(drop(50_000) for _ in range(4)) < first + 16


def test_many_threads_submit_at_once() -> None:
    wrong: list[Any] = []

    def submit_all(thread: int) -> None:
        promises = [betterbox.submit(work.add, (thread,), (i,)) for i in range(1000)]
        wrong.extend(i for i, promise in enumerate(promises) if promise.result(LONG) != (thread, i))

    threads = [threading.Thread(target=submit_all, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_chain_of_promises_as_arguments() -> None:
    promise = betterbox.submit(work.noop, 0)
    for _ in range(50):
        promise = betterbox.submit(work.add, promise, 1)
    assert promise.result(LONG) == 50
    failed = betterbox.submit(work.raise_at, 1, 1)
    with pytest.raises(ValueError, match="bad 1"):
        betterbox.submit(work.noop, failed).result(LONG)


def test_what_runs_when_the_cluster_ends_is_lost_and_what_is_done_stays(
    cluster: betterbox.LocalCluster, tmp_path: Path
) -> None:
    done, busy = betterbox.submit(work.noop, 9), betterbox.submit(work.wait_for_file, str(tmp_path / "never"))
    wait_until(done.done, "the quick one")
    cluster.close()
    assert done.result(LONG) == 9
    with pytest.raises(betterbox.BusError):
        busy.result(LONG)
