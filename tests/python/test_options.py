"""What options say to the bus: amounts, costs, copies."""

from __future__ import annotations

from array import array
from typing import Any

import betterbox
import numpy
import pytest
import work
from betterbox._options import POLICIES, Options, packed_costs
from betterbox._resources import memory_bytes, worker_arguments


@pytest.mark.parametrize(
    ("given", "amount"),
    [(0, 0), (1 << 40, 1 << 40), ("2G", 2 << 30), ("1.5 MiB", 3 << 19), ("100", 100), ("4kb", 4096), ("1T", 1 << 40)],
)
def test_memory_is_bytes_or_a_text_with_a_unit(given: int | str, amount: int) -> None:
    assert memory_bytes("memory", given) == amount


@pytest.mark.parametrize("text", ["", "G", "2X", "-1G", "1e300G", "nan", "two"])
def test_memory_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="memory must be"):
        memory_bytes("memory", text)


def test_needs_are_a_core_for_functions_and_none_for_boxes_unless_told() -> None:
    assert Options({}).needs(True) == (1000, 0, 0, [])
    assert Options({}).needs(False) == (0, 0, 0, [])
    told = Options({"cpus": 0.5, "memory": "1K", "gpus": 2, "resources": {"b": 1, "a": 2}})
    assert told.needs(True) == told.needs(False) == (500, 1024, 2000, [("a", 2000), ("b", 1000)])


def test_amounts_may_be_numbers_of_numpy() -> None:
    told = Options({"cpus": numpy.float32(0.5), "memory": numpy.int64(1024), "gpus": numpy.uint8(2)})
    assert told.needs(True) == (500, 1024, 2000, [])


def test_copies_are_for_idempotent_functions_alone() -> None:
    def permille(functions: bool = True, **given: Any) -> int:
        copies: int = Options(given).wire(functions)["copies_permille"]
        return copies

    assert permille() == 0
    assert permille(idempotent=True) == 50
    assert permille(idempotent=True, copies=0.2) == 200
    assert permille(idempotent=True, copies=0) == 0
    assert permille(idempotent=True, reduce=work.add) == 0
    assert permille(False, idempotent=True) == 0
    with pytest.raises(ValueError, match="plain functions"):
        permille(False, idempotent=True, copies=0.2)


def test_costs_are_packed_from_lists_arrays_and_ndarrays() -> None:
    numpy = pytest.importorskip("numpy")
    packed = array("f", [1, 0.5]).tobytes()
    for costs in ([1, 0.5], (1, 0.5), array("d", [1, 0.5]), numpy.array([1, 0.5])):
        assert packed_costs(costs, 2) == packed


def test_a_worker_is_told_what_it_has() -> None:
    assert worker_arguments(None, None, None, None) == []
    arguments = worker_arguments(2.5, "1G", 2, {"licence": 3})
    assert arguments == ["--cpus", "2.5", "--memory", str(1 << 30), "--gpus", "2", "--resource", "licence=3"]


@pytest.mark.parametrize("timeout", [float("inf"), 1e12, 10**30])
def test_a_timeout_longer_than_the_bus_counts_is_never(timeout: float) -> None:
    assert Options({"timeout": timeout}).wire(True)["timeout"] is None


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-12])
def test_a_timeout_shorter_than_the_bus_counts_is_not_never(timeout: float) -> None:
    assert Options({"timeout": timeout}).wire(True)["timeout"] == 1e-9


@pytest.mark.parametrize(
    "given",
    [
        {"retries": 1 << 32},
        {"name": "x" * 1001},
        {"name": "half \udc80"},
        {"resources": {f"r{i}": 1 for i in range(65)}},
        {"resources": {"r" * 201: 1}},
        {"resources": {"half \udc80": 1}},
    ],
)
def test_what_the_bus_would_refuse_is_refused_at_the_caller(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(given))} "):
        Options(given)


# --- on a bus ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gives_right_results(policy: str) -> None:
    promise = betterbox.map(work.double, range(2000), policy=policy)
    assert promise.result() == [2 * x for x in range(2000)]
    assert promise.explain()["policy"] == policy


@pytest.mark.usefixtures("cluster")
def test_an_endless_timeout_leaves_the_client_on_the_bus_and_none_at_all_ends_the_call() -> None:
    assert betterbox.map(work.double, [1, 2], timeout=float("inf")).result() == [2, 4]
    with pytest.raises(TimeoutError):
        betterbox.map(work.double, [1, 2], timeout=0).result()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("cost", [lambda a, b: a + b, list(range(300)), array("f", range(300))])
def test_costs_change_no_result(cost: Any) -> None:
    promise = betterbox.map(work.add, range(300), list(range(300)), cost=cost)
    assert promise.result() == [2 * x for x in range(300)]


@pytest.mark.usefixtures("cluster")
def test_a_range_with_costs_is_cut_into_pages_that_fit_a_message() -> None:
    promise = betterbox.map(work.noop, range(600_000), cost=lambda x: x, reduce=max)
    assert promise.result() == 599_999


@pytest.mark.usefixtures("cluster")
def test_a_generators_items_get_their_costs_from_a_function() -> None:
    seen = []

    def cost(x: int) -> int:
        seen.append(x)
        return x

    assert betterbox.map(work.double, (x for x in range(100)), cost=cost).result() == [2 * x for x in range(100)]
    assert seen == list(range(100))
    with pytest.raises(ValueError, match="how many come is not known"):
        betterbox.map(work.double, (x for x in range(3)), cost=[1, 2, 3])


@pytest.mark.usefixtures("cluster")
def test_a_cost_function_that_raises_raises_at_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        betterbox.map(work.noop, [0], cost=lambda x: 1 / x)


@pytest.mark.usefixtures("cluster")
def test_an_executors_cost_sees_the_items_arguments() -> None:
    with betterbox.Executor(cost=lambda a, b: a * b) as executor:
        assert list(executor.map(work.add, [1, 2], [3, 4])) == [4, 6]


@pytest.mark.usefixtures("cluster")
def test_options_of_many_items_are_refused_for_one() -> None:
    for option in ({"cost": [1]}, {"reduce": max}):
        with pytest.raises(TypeError, match="spread call"):
            betterbox.options(**option).submit(work.noop, 1)
