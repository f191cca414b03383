"""submit, map, their promises and their errors, on a local cluster."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import betterbox
import numpy
import pytest
import work
from betterbox import (
    CallCancelledError,
    CallTimeoutError,
    LocalCluster,
    PoisonedItemError,
    RemoteError,
    SerializationError,
)
from helpers import wait_until

pytestmark = pytest.mark.usefixtures("cluster")


# --- values -----------------------------------------------------------------------------------------


def test_submit_returns_the_value() -> None:
    assert betterbox.submit(work.join, 1, 2, sep="+").result() == "1+2"


def test_map_keeps_the_order_of_items() -> None:
    assert betterbox.map(work.double, range(1000)).result() == [2 * x for x in range(1000)]


def test_map_zips_several_iterables() -> None:
    assert betterbox.map(work.add, [1, 2], (10, 20)).result() == [11, 22]


def test_map_takes_any_iterable() -> None:
    assert betterbox.map(work.noop, "abc").result() == ["a", "b", "c"]
    assert betterbox.map(work.noop, {"k": 1}).result() == ["k"]
    assert sorted(betterbox.map(work.noop, {3, 4}).result()) == [3, 4]


def test_map_of_what_cannot_be_iterated_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"map takes iterables after the function, not int; .* betterbox.submit\(fn, x\)"):
        betterbox.map(work.double, 5)  # type: ignore[arg-type]


def test_arrays_travel() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(12.0).reshape(3, 4)
    assert (betterbox.submit(work.noop, array).result() == array).all()
    assert [row.sum() for row in betterbox.map(work.noop, array)] == [6.0, 22.0, 38.0]


def test_lambdas_travel() -> None:
    offset = 5
    assert betterbox.map(lambda x: x + offset, [1, 2]).result() == [6, 7]


def test_an_empty_map_has_an_empty_result_and_no_first_response() -> None:
    promise = betterbox.map(work.noop, [])
    assert promise.all() == [] and promise.result() == [] and list(promise) == []
    assert promise.progress() == (0, 0)
    with pytest.raises(ValueError, match="no items"):
        promise.any()


def test_arguments_are_those_of_the_moment_of_the_call() -> None:
    items = [[1], [2]]
    promise = betterbox.map(work.noop, items)
    items[0].append(9)
    items.append([3])
    assert promise.result() == [[1], [2]]


def test_one_mutable_object_returned_twice_arrives_as_it_was_each_time() -> None:
    def grow(x: int, kept: list[int] = []) -> list[int]:  # noqa: B006
        kept.append(x)
        return kept

    results = betterbox.map(grow, range(20)).result()
    assert len({id(result) for result in results}) == 20
    assert all(result[-1] == i for i, result in enumerate(results))


def test_slots_draw_different_random_numbers() -> None:
    drawn = betterbox.map(work.draw, range(50)).result()
    assert len(set(drawn)) == 50


# --- promises ---------------------------------------------------------------------------------------


def test_values_come_in_order_and_as_they_land() -> None:
    promise = betterbox.map(work.double, range(50))
    assert list(promise) == [2 * x for x in range(50)]
    assert list(promise) == [2 * x for x in range(50)]
    assert sorted(promise.as_completed()) == [(x, 2 * x) for x in range(50)]
    assert sorted(promise.as_completed()) == [(x, 2 * x) for x in range(50)]


def test_the_first_response_stays_the_first() -> None:
    promise = betterbox.map(work.double, range(50))
    first = promise.any()
    promise.all()
    assert promise.any() == first


def test_compute_folds_all_responses() -> None:
    assert betterbox.map(work.double, range(10)).compute(sum) == 90


def test_progress_counts_to_the_total() -> None:
    promise = betterbox.map(work.noop, range(100))
    promise.all()
    assert promise.progress() == (100, 100) and promise.done()


def test_callbacks_run_once_done_and_at_once_if_done() -> None:
    called = threading.Event()
    promise = betterbox.submit(work.noop, 1)
    promise.add_done_callback(lambda p: called.set() if p is promise and p.result(0) == 1 else None)
    assert called.wait(30)
    late: list[Any] = []
    promise.add_done_callback(late.append)
    assert late == [promise]


def test_await_gives_the_result() -> None:
    async def awaited(promise: Any) -> Any:
        return await promise

    async def both() -> Any:
        return await asyncio.gather(
            awaited(betterbox.submit(work.noop, 1)), awaited(betterbox.map(work.noop, range(3)))
        )

    assert asyncio.run(both()) == [1, [0, 1, 2]]


def test_await_raises_what_the_call_raised() -> None:
    async def main() -> None:
        await betterbox.submit(work.raise_at, 1, 1)

    with pytest.raises(ValueError, match="bad 1"):
        asyncio.run(main())


def test_a_wait_has_a_timeout_and_the_call_goes_on(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    promise = betterbox.submit(work.wait_for_file, str(gate))
    with pytest.raises(CallTimeoutError, match="it goes on"):
        promise.result(0.05)
    with pytest.raises(TimeoutError):
        promise.all(timeout=0)
    gate.touch()
    assert promise.result() == str(gate)


def test_cancel_drops_what_has_no_outcome(tmp_path: Path) -> None:
    started = tmp_path / "started"
    promise = betterbox.submit(work.touch_and_wait, str(started))
    wait_until(started.exists, "the call runs")
    assert promise.cancel()
    with pytest.raises(CallCancelledError):
        promise.result()
    assert promise.cancelled()
    assert betterbox.submit(work.noop, 1).result() == 1
    assert not betterbox.submit(work.noop, 1).done() or True


def test_a_call_has_a_timeout(tmp_path: Path) -> None:
    promise = betterbox.options(timeout=0.2).submit(work.touch_and_wait, str(tmp_path / "started"))
    with pytest.raises(CallTimeoutError):
        promise.result(30)
    assert betterbox.submit(work.noop, 1).result(30) == 1


def test_explain_says_who_did_what() -> None:
    promise = betterbox.map(work.noop, range(100))
    promise.all()
    report = promise.explain()
    assert sum(seat["items"] for agent in report["agents"] for seat in agent["seats"]) == 100
    assert report["settled"] == 100 and "slot" in str(report)


def test_ctrl_c_interrupts_a_wait(tmp_path: Path) -> None:
    promise = betterbox.submit(work.wait_for_file, str(tmp_path / "never"))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        promise.result()
    promise.cancel()


# --- promises as arguments ----------------------------------------------------------------------------


def test_a_promise_among_the_arguments_is_replaced_by_its_value(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = betterbox.submit(work.wait_for_file, str(gate))
    second = betterbox.submit(work.add, first, "!")
    third = betterbox.submit(work.join, second, "?", sep="")
    assert not third.done() and third.progress() == (0, None)
    gate.touch()
    assert third.result() == f"{gate}!?"


def test_a_failed_promise_fails_the_call_that_waits_for_it() -> None:
    second = betterbox.submit(work.add, betterbox.submit(work.raise_at, 1, 1), 1)
    with pytest.raises(ValueError, match="bad 1"):
        second.result()
    assert second.all(return_exceptions=True)[0].args == ("bad 1",)


def test_callbacks_of_a_deferred_call_run(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    done = threading.Event()
    second = betterbox.submit(work.add, betterbox.submit(work.wait_for_file, str(gate)), "!")
    second.add_done_callback(lambda _: done.set())
    gate.touch()
    assert done.wait(30)


def test_a_deferred_call_sees_its_other_arguments_as_they_were(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    other = ["before"]
    first = betterbox.submit(work.wait_for_file, str(gate))
    second = betterbox.submit(work.join, first, other)
    other.append("after")
    array = numpy.zeros(100_000)
    third = betterbox.submit(lambda _, array: array[0], first, array)
    array[0] = 1
    gate.touch()
    assert third.result() == 0
    assert second.result() == f"{gate}-['before']"


def test_a_deferred_call_runs_what_was_called_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, here, seen = tmp_path / "gate", os.getcwd(), ["before"]
    ref = betterbox.put("value")

    def look(*_: Any) -> tuple[list[str], str, str, str]:
        return seen, os.getcwd(), os.environ["MOMENT"], ref.get()

    monkeypatch.setenv("MOMENT", "then")
    first = betterbox.submit(work.wait_for_file, str(gate))
    waiting = [
        betterbox.submit(look, first),
        betterbox.map(functools.partial(look, []), [1], itertools.repeat(first)),
        betterbox.submit(functools.partial(look, seen), first),
    ]
    with pytest.raises(SerializationError, match="^fn.*gate_lock"):
        gate_lock = threading.Lock()
        betterbox.submit(lambda _: gate_lock, first)
    seen.append("after")
    monkeypatch.setenv("MOMENT", "now")
    monkeypatch.chdir("/")
    gate.touch()
    expected = (["before"], here, "then", "value")
    assert [promise.all() for promise in waiting] == [[expected]] * 3


def test_a_promise_inside_of_an_argument_does_not_travel() -> None:
    with pytest.raises(SerializationError, match=r"\['p'\]"):
        betterbox.submit(work.noop, {"p": betterbox.submit(work.noop, 1)})


# --- generators ---------------------------------------------------------------------------------------


def numbers(count: int, pulled: list[int] | None = None) -> Iterator[int]:
    for i in range(count):
        if pulled is not None:
            pulled.append(i)
        yield i


def test_a_generator_is_spread() -> None:
    assert betterbox.map(work.double, numbers(3000)).result() == [2 * x for x in range(3000)]


def test_an_empty_generator_has_an_empty_result() -> None:
    assert betterbox.map(work.double, numbers(0)).result() == []
    assert list(betterbox.map(work.double, numbers(0))) == []


def test_iterating_a_generator_call_consumes_it() -> None:
    promise = betterbox.map(work.double, numbers(100))
    values = iter(promise)
    assert next(values) == 0 and next(values) == 2
    assert list(promise) == [2 * x for x in range(2, 100)]
    with pytest.raises(RuntimeError, match="handed out"):
        promise.all()


def test_results_not_taken_hold_a_generator_back() -> None:
    pulled: list[int] = []
    promise = betterbox.map(work.noop, numbers(1_000_000, pulled))
    first = next(iter(promise))
    assert first == 0 and len(pulled) < 500_000
    promise.cancel()


def test_what_a_generator_raises_is_raised_by_the_wait() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("the well is dry")

    with pytest.raises(LookupError, match="the well is dry"):
        betterbox.map(work.noop, broken()).result()


@pytest.mark.parametrize("iterate", [iter, lambda promise: (value for _, value in promise.as_completed())])
def test_what_a_generator_raises_is_raised_by_the_iteration_after_the_values(iterate: Any) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("the well is dry")

    values = iterate(betterbox.map(work.double, broken()))
    assert next(values) == 2
    with pytest.raises(LookupError, match="the well is dry"):
        next(values)


def test_generators_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter|longer"):
        betterbox.map(work.add, numbers(3), numbers(4)).result()


def test_a_promise_can_be_spread() -> None:
    assert betterbox.map(work.double, betterbox.map(work.double, range(5))).result() == [0, 4, 8, 12, 16]


# --- reduce -------------------------------------------------------------------------------------------


def test_reduce_folds_in_item_order() -> None:
    words = [f"{i}," for i in range(500)]
    promise = betterbox.map(work.noop, words, reduce=work.add)
    assert promise.result() == "".join(words)
    assert promise.all() == ["".join(words)]


def test_reduce_of_nothing_needs_an_initial_value() -> None:
    assert betterbox.map(work.noop, [], reduce=work.add, initial=5).result() == 5
    assert betterbox.map(work.noop, [1, 2], reduce=work.add, initial=5).result() == 8
    with pytest.raises(TypeError, match="no initial value"):
        betterbox.map(work.noop, [], reduce=work.add).result()


def test_reduce_raises_what_an_item_raised() -> None:
    with pytest.raises(ValueError, match="bad 7"):
        betterbox.map(lambda x: work.raise_at(x, 7), range(20), reduce=work.add).result()


# --- things that go wrong -----------------------------------------------------------------------------


def test_an_item_that_raises_leaves_its_neighbours_alone() -> None:
    outcomes = betterbox.map(lambda x: work.raise_at(x, 3), range(6)).all(return_exceptions=True)
    assert [x for x in outcomes if not isinstance(x, Exception)] == [0, 1, 2, 4, 5]
    error = outcomes[3]
    assert isinstance(error, ValueError) and error.args == ("bad 3",)
    assert isinstance(error.__cause__, RemoteError)
    assert "raise ValueError" in error.__cause__.traceback and "_slot.py" not in error.__cause__.traceback


def test_all_raises_the_error_of_the_lowest_index() -> None:
    def fails(x: int) -> int:
        if x in (2, 5):
            raise ValueError(x)
        return x

    promise = betterbox.map(fails, range(8))
    with pytest.raises(ValueError, match="^2$"):
        promise.all()
    assert promise.done() and promise.any() in {0, 1, 3, 4, 6, 7}


def test_any_raises_only_when_all_have_failed() -> None:
    with pytest.raises(ValueError, match="bad 1"):
        betterbox.map(lambda x: work.raise_at(x, x), [1, 2]).any()


def test_iteration_goes_on_after_an_error() -> None:
    values = iter(betterbox.map(lambda x: work.raise_at(x, 0), range(3)))
    with pytest.raises(ValueError):
        next(values)
    assert list(values) == [1, 2]


def test_an_error_arrives_as_its_class_without_what_cannot_be_pickled() -> None:
    with pytest.raises(work.StrangeError, match="1 and 2"):
        betterbox.submit(work.raise_strange, 0).result()
    with pytest.raises(ValueError, match="holds a generator") as caught:
        betterbox.submit(work.raise_unpicklable, 0).result()
    assert not hasattr(caught.value, "detail") and "pickled: detail" in str(caught.value.__cause__)


def test_an_unpicklable_result_is_its_items_error() -> None:
    outcomes = betterbox.map(lambda x: work.unpicklable_at(x, 2), range(5)).all(return_exceptions=True)
    assert isinstance(outcomes[2], SerializationError) and outcomes[:2] + outcomes[3:] == [0, 1, 3, 4]


def test_an_unpicklable_argument_is_refused_at_the_call() -> None:
    with pytest.raises(SerializationError, match=r"args\[0\]\[3\]"):
        betterbox.map(work.noop, [0, 1, 2, (x for x in ())])
    with pytest.raises(SerializationError):
        betterbox.submit(work.noop, (x for x in ()))


@pytest.mark.parametrize(("fn", "expected"), [(work.exit_at, ("exit_code", 7)), (work.segfault_at, ("signal", 11))])
def test_an_item_that_ends_its_process_is_poisoned_and_the_others_finish(fn: Any, expected: tuple[str, int]) -> None:
    outcomes = betterbox.options(retries=1).map(lambda x: fn(x, 5), range(20)).all(return_exceptions=True)
    error = outcomes[5]
    assert isinstance(error, PoisonedItemError)
    assert (error.index, getattr(error, expected[0])) == (5, expected[1])
    assert error.host == os.uname().nodename and error.pid > 0
    if fn is work.segfault_at:
        assert "about to fall" in error.stderr_tail
    assert outcomes[:5] + outcomes[6:] == [*range(5), *range(6, 20)]


def test_endless_iterables_give_as_many_items_as_others_need() -> None:
    for items in ([2, 3], iter([2, 3]), {2: 0, 3: 0}):
        assert betterbox.map(pow, items, itertools.count(1)).result() == [2, 9]
    assert betterbox.map(pow, itertools.cycle([2, 3]), [1, 2, 3]).result() == [2, 9, 8]
    with pytest.raises(ValueError):
        betterbox.map(max, [1, 2], [1], itertools.count())
    with pytest.raises(ValueError):
        betterbox.map(max, iter([1, 2]), [1], itertools.count()).result()


def test_spread_lengths_that_differ_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="same length"):
        betterbox.map(work.add, [1], [1, 2])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"retrys": 1}, TypeError, "did you mean 'retries'"),
        ({"retries": -1}, ValueError, "retries"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"policy": "magic"}, ValueError, "policy 'magic' is not known.* the policies are auto, static"),
        ({"policy": "fac"}, ValueError, "did you mean 'fac2'"),
        ({"policy": 2}, ValueError, "policy 2"),
        ({"priority": 1.5}, ValueError, "priority must be .* not 1.5"),
        ({"cpus": -1}, ValueError, "cpus must be .* not -1"),
        ({"cpus": float("nan")}, ValueError, "cpus must be .* not nan"),
        ({"gpus": "all"}, ValueError, "gpus must be .* not 'all'"),
        ({"gpus": 1e-5}, ValueError, "gpus must be 0 or at least 0.001"),
        ({"memory": "2 gallons"}, ValueError, "memory must be .* not '2 gallons'"),
        ({"memory": 1.5}, ValueError, "memory must be .* not 1.5"),
        ({"resources": ["licence"]}, ValueError, "resources must map names to amounts"),
        ({"resources": {"licence": "one"}}, ValueError, "resources\\['licence'\\] must be .* not 'one'"),
        ({"resources": {"cpus": 2}}, ValueError, "an option of its own, cpus=2"),
        ({"cost": 5}, TypeError, "cost must be a function of an item or a sequence"),
        ({"cost": [1, 2]}, ValueError, "cost has 2 numbers for 1 items"),
        ({"cost": [-1]}, ValueError, "item 0 has -1"),
        ({"cost": lambda x: float("inf")}, ValueError, "item 0 has inf"),
        ({"cost": lambda x: "much"}, TypeError, "a number for each item"),
        ({"copies": 0.1}, ValueError, "copies=0.1 .* idempotent=True"),
        ({"copies": 2, "idempotent": True}, ValueError, "copies must be .* not 2"),
        ({"copies": 0.1, "idempotent": True, "reduce": work.add}, ValueError, "copies=0.1 does not go with reduce"),
        ({"initial": 1}, TypeError, "reduce"),
        ({"ship": ["os"]}, TypeError, "modules"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        betterbox.map(work.noop, [1], **options)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="function"):
        betterbox.submit(5)  # type: ignore[arg-type]


def test_a_module_that_slots_do_not_have_can_be_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    (tmp_path / "far_away.py").write_text("def f(x):\n    return x * 3\n")
    spec = importlib.util.spec_from_file_location("far_away", tmp_path / "far_away.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(__import__("sys").modules, "far_away", module)
    with pytest.raises(ImportError, match="ship="):
        betterbox.submit(module.f, 2).result()
    assert betterbox.options(ship=[module]).submit(module.f, 2).result() == 6


def test_slots_see_the_clients_path_and_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "near_by.py").write_text("import os\n\ndef here(_):\n    return os.getcwd()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    near_by = __import__("near_by")
    assert betterbox.submit(near_by.here, 0).result() == str(tmp_path)


def test_functions_can_use_the_bus_themselves() -> None:
    def outer(x: int) -> int:
        return x + betterbox.submit(work.double, x).result()

    assert betterbox.submit(outer, 2).result() == 6


def test_a_nested_cluster_is_current_only_inside(cluster: LocalCluster) -> None:
    with betterbox.LocalCluster(slots=1) as inner:
        assert os.environ["BETTERBOX_BUS"] == inner.bus
        assert betterbox.submit(work.noop, 1).result() == 1
    assert os.environ["BETTERBOX_BUS"] == cluster.bus
    assert betterbox.submit(work.noop, 1).result() == 1


def test_a_forked_child_gets_a_clear_error() -> None:
    betterbox.submit(work.noop, 1).result()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            betterbox.submit(work.noop, 1)
        except betterbox.BusError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert b"forked" in os.read(read, 1000)
    os.close(read)
    assert betterbox.submit(work.noop, 1).result() == 1
