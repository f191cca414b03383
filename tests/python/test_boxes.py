"""Boxes served by this process and by workers, called by RemoteBox, GroupBox and SpreadBox."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import betterbox
import pytest
import work
from betterbox import (
    Box,
    BoxLostError,
    GroupBox,
    NoBoxFoundError,
    RemoteBox,
    RemoteError,
    SandBox,
    SerializationError,
    SpreadBox,
    serve,
    spread,
)
from helpers import wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def box(cluster: Any) -> Iterator[RemoteBox]:
    """A Tester served by this very process."""
    with serve(work.Tester(), 8090, block=False):
        yield RemoteBox.connect(8090)


# --- direct calls -------------------------------------------------------------------------------------


def test_a_call_returns_a_promise_of_the_value(box: Any) -> None:
    assert box.name().result() == "MyBox" and box.name().any() == "MyBox" and box.name().all() == ["MyBox"]


@pytest.mark.parametrize("value", [None, True, 1, -(2**70), 1.5, "x", b"y", (1, [2, {"k": {3}}])])
def test_values_come_back_as_they_went(box: Any, value: Any) -> None:
    assert box.echo(value).result() == value


def test_arguments_by_keyword(box: Any) -> None:
    assert box.echo(1, b=[2]).result() == ((1,), {"b": [2]})
    assert box.echo(1, b=2).result() == ((1,), {"b": 2})


def test_calls_run_in_order(box: Any) -> None:
    for i in range(100):
        box.note(i)
    assert box.notes().result() == list(range(100))


def test_a_dropped_promise_does_not_drop_its_call(box: Any) -> None:
    box.note("x")
    assert box.notes().result() == ["x"]


def test_mutation_after_the_call_is_not_seen(box: Any) -> None:
    value = [1]
    promise = box.echo(value)
    value.append(2)
    assert promise.result() == [1]


def test_concurrent_and_async_methods_run_beside_a_busy_box(box: Any, tmp_path: Path) -> None:
    busy = box.wait(str(tmp_path / "gate"))
    assert box.beside().result(30) == 0
    assert box.later("x").result(30) == "x"
    assert not busy.done()
    (tmp_path / "gate").touch()
    busy.result(30)


def test_an_exception_arrives_as_itself_with_the_traceback_as_its_cause(box: Any) -> None:
    with pytest.raises(KeyError, match="nothing") as caught:
        box.fail("nothing").result()
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "in fail" in str(caught.value.__cause__)


def test_an_exit_in_a_box_does_not_end_it(box: Any) -> None:
    with pytest.raises(SystemExit):
        box.leave().result()
    assert box.name().result() == "MyBox"


def test_unpicklable_arguments_and_results_are_named(box: Any) -> None:
    with pytest.raises(SerializationError, match=r"args\[0\]\['k'\]"):
        box.echo({"k": (x for x in ())})
    with pytest.raises(SerializationError, match=r"kwargs\['key'\]"):
        box.echo(1, key=(x for x in ()))


def test_a_missing_method_suggests_the_nearest(box: Any) -> None:
    with pytest.raises(AttributeError, match="did you mean 'name'"):
        box.nam()


def test_private_methods_are_not_there(box: Any) -> None:
    for name in ("hidden", "_anything"):
        assert not hasattr(box, name)


def test_a_private_method_called_over_the_wire_is_refused(box: Any) -> None:
    from betterbox._boxes import _link_of
    from betterbox._options import DEFAULTS

    for name in ("hidden", "__init__", "nosuch"):
        with pytest.raises(AttributeError):
            _link_of(box).call(name, (), {}, DEFAULTS).result()


def test_dir_lists_the_methods_of_the_box(box: Any) -> None:
    assert {"name", "echo", "connect", "instance"} <= set(dir(box)) and "hidden" not in dir(box)


def test_a_promise_as_argument_of_a_method(box: Any) -> None:
    assert box.echo(box.echo([1])).result() == [1]


def test_a_class_of_the_user_wins_over_the_remote_names(cluster: Any) -> None:
    class Own(RemoteBox):
        extra = 3

        def name(self) -> str:
            return "mine"

    with serve(work.Tester(), 8090, block=False):
        own = Own.connect(8090)
        assert own.name() == "mine" and own.extra == 3 and own.pid().result() > 0  # type: ignore[operator]


def test_spread_needs_a_spread_box(box: Any) -> None:
    with pytest.raises(TypeError, match="SpreadBox"):
        box.echo(spread([1]))


# --- making and finding boxes --------------------------------------------------------------------------


def test_no_box_at_the_port_names_port_and_bus(cluster: Any) -> None:
    with pytest.raises(NoBoxFoundError, match=r"port 4711 of the bus .*bus\.json"):
        RemoteBox.connect(4711, timeout=0.1)


def test_use_box_waits_for_as_many_as_required(cluster: Any) -> None:
    with serve(work.Tester(), 8090, block=False):
        with pytest.raises(NoBoxFoundError, match="only 1 of 2"):
            GroupBox.connect(8090, timeout=0.2, require=2)


@pytest.mark.parametrize("port", [0, -1, 65536, True, "8090", 1.0])
def test_a_port_out_of_range_is_refused(port: Any) -> None:
    for use in (lambda: serve(work.Tester(), port), lambda: RemoteBox.connect(port), lambda: betterbox.use_box(port)):
        with pytest.raises((ValueError, TypeError), match="1 to 65535"):
            use()


def test_a_class_without_the_base_is_refused(cluster: Any) -> None:
    class Plain:
        pass

    with pytest.raises(TypeError, match="Box"):
        betterbox.serve_box(8090, block=False)(Plain)
    with pytest.raises(TypeError, match="RemoteBox"):
        betterbox.use_box(8090)(work.Tester)
    with pytest.raises(TypeError, match="Box"):
        serve(Plain(), 8090)


def test_what_init_raises_is_raised_by_the_decorator(cluster: Any) -> None:
    class Broken(Box):
        def __init__(self) -> None:
            raise ZeroDivisionError("no start")

    with pytest.raises(ZeroDivisionError, match="no start"):
        betterbox.serve_box(8090, block=False)(Broken)
    with pytest.raises(NoBoxFoundError):
        RemoteBox.connect(8090, timeout=0.1)


def test_the_one_instance_lives_on_the_boxs_own_thread(cluster: Any) -> None:
    threads = []

    class Threaded(Box):
        def __init__(self) -> None:
            threads.append(threading.current_thread())

        def same(self) -> bool:
            return threading.current_thread() is threads[0]

    betterbox.serve_box(8090, block=False)(Threaded)
    assert Threaded() is Threaded.instance()
    assert len(threads) == 1 and threads[0] is not threading.current_thread()
    assert RemoteBox.connect(8090).same().result() is True


class Counter(Box):
    def __init__(self) -> None:
        self.count = 0

    def increment(self) -> int:
        self.count += 1
        return self.count


def test_a_class_that_is_served_twice_makes_two_objects(cluster: Any) -> None:
    with serve(Counter, 8090, block=False) as first, serve(Counter, 8091, block=False) as second:
        assert first.box is not second.box
        assert [RemoteBox.connect(port).increment().result() for port in (8090, 8090, 8091)] == [1, 2, 1]
    with serve(Counter, 8090, block=False):
        assert RemoteBox.connect(8090).increment().result() == 1


def test_an_object_that_is_served_is_refused_at_a_second_port(cluster: Any) -> None:
    counter = Counter()
    with serve(counter, 8090, block=False):
        with pytest.raises(betterbox.BetterBoxError, match="this Counter is served at port 8090 already"):
            serve(counter, 8091)
        assert RemoteBox.connect(8090).increment().result() == 1
    with serve(counter, 8091, block=False):
        assert RemoteBox.connect(8091).increment().result() == 2


def test_an_object_that_was_made_of_a_class_is_refused_at_a_second_port(cluster: Any) -> None:
    class Single(Counter):
        one: Any = None

        def __new__(cls) -> Any:
            cls.one = cls.one or super().__new__(cls)
            return cls.one

    @betterbox.serve_box(8092, block=False)
    class Decorated(Counter):
        pass

    with serve(Counter, 8090, block=False) as serving, serve(Single, 8091, block=False):
        for again in (serving.box, Single, Single.one, Decorated, Decorated.instance()):
            with pytest.raises(betterbox.BetterBoxError, match="is served at port 809. already"):
                serve(again, 8093)
    with serve(serving.box, 8093, block=False), serve(Single, 8090, block=False):
        assert RemoteBox.connect(8093).increment().result() == 1


def test_an_async_method_may_return_a_promise(cluster: Any) -> None:
    class Asker(Box):
        async def ask(self, port: int) -> Any:
            return RemoteBox.connect(port).increment()

    with serve(Counter, 8090, block=False), serve(Asker, 8091, block=False):
        asker = RemoteBox.connect(8091)
        assert asker.ask(8090).result() == 1
        assert betterbox.SpreadBox.connect(8091).ask(betterbox.spread([8090, 8090])).result() == [2, 3]


def test_the_instance_is_not_in_the_class(cluster: Any) -> None:
    import cloudpickle

    class Local(Box):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    with serve(Local, 8090, block=False):
        cloudpickle.dumps(Local)


def test_a_box_that_was_closed_is_gone(cluster: Any) -> None:
    serving = serve(work.Tester(), 8090, block=False)
    box = RemoteBox.connect(8090)
    serving.close()
    serving.close()
    with pytest.raises((NoBoxFoundError, BoxLostError)):
        box.name().result()


def test_a_relay_exports_its_own_methods_and_those_of_its_box(box: Any) -> None:
    @betterbox.serve_box(9090, block=False)
    @betterbox.use_box(8090)
    class Relay(RemoteBox):
        def __init__(self) -> None:
            self.seen = self.name().any()

        def own(self) -> str:
            return f"relay of {self.seen}"

        def passed(self) -> Any:
            return self.name()

    relay = RemoteBox.connect(9090)
    assert relay.own().result() == "relay of MyBox"
    assert relay.passed().result() == "MyBox"
    assert relay.name().result() == "MyBox"
    assert relay.energy(1.0, temperature=2.0).result() == 3.0


# --- sandboxes ------------------------------------------------------------------------------------------


def test_a_sandbox_runs_functions_and_takes_methods(cluster: Any) -> None:
    def greet(self: Any, name: str) -> str:
        return f"{self.own()} {name}"

    with serve(work.Sand(), 8090, block=False):
        box = RemoteBox.connect(8090)
        assert box.run(work.join, 1, 2).result() == "1-2"
        with pytest.raises(AttributeError, match="greet"):
            box.greet("x").result()
        box.inject(greet).result()
        assert box.greet("x").result() == "own x"


# --- groups and spreads on workers ------------------------------------------------------------------------


@pytest.fixture
def three(cluster: Any) -> Iterator[betterbox.Deployment]:
    """Three Testers on the worker."""
    with betterbox.deploy(work.Tester, 8090, slots=3) as deployment:
        yield deployment


def test_a_group_call_goes_to_all(three: Any) -> None:
    group: Any = GroupBox.connect(8090, require=3)
    assert group.name().result() == ["MyBox"] * 3
    assert len(set(group.pid().all())) == 3
    assert group.name().any() == "MyBox"


def test_a_member_that_dies_puts_its_error_in_its_place(three: Any) -> None:
    group: Any = GroupBox.connect(8090, require=3)
    victim = group.pid().all()[1]

    def die_if(pid: int) -> int:
        import os

        if os.getpid() == pid:
            os._exit(1)
        return os.getpid()

    with betterbox.deploy(SandBox, 8091, slots=3):
        sandboxes: Any = GroupBox.connect(8091, require=3)
        victim = sandboxes.run(work.pid).all()[1]
        outcomes = sandboxes.run(die_if, victim).all(return_exceptions=True)
        assert isinstance(outcomes[1], BoxLostError) and outcomes[0] != outcomes[2]
        with pytest.raises(BoxLostError):
            raise outcomes[1]


def test_a_spread_box_spreads(three: Any) -> None:
    boxes: Any = SpreadBox.connect(8090, require=3)
    assert boxes.energy(spread([1.0, 2.0, 3.0]), temperature=300.0).compute(sum) == 906.0
    assert boxes.energy(1.0, temperature=spread(range(3))).result() == [1.0, 2.0, 3.0]
    assert boxes.energy(spread([1, 2]), spread([10, 20])).result() == [11, 22]
    assert boxes.name().result() == ["MyBox"] * 3
    assert boxes.energy(spread(x / 2 for x in range(4))).result() == [0.0, 0.5, 1.0, 1.5]
    assert boxes.energy.options(reduce=work.add)(spread(range(10))).result() == 45


def test_spread_arguments_of_different_lengths_are_refused(three: Any) -> None:
    boxes: Any = SpreadBox.connect(8090)
    with pytest.raises(ValueError, match=r"args\[0\] has 1, kwargs\['temperature'\] has 2"):
        boxes.energy(spread([1]), temperature=spread([1, 2]))
    with pytest.raises(TypeError, match="did you mean 'retries'"):
        boxes.energy.options(retry=1)
    with pytest.raises(TypeError, match="spread"):
        boxes.energy.options(reduce=work.add)(1)


def test_an_empty_spread(three: Any) -> None:
    boxes: Any = SpreadBox.connect(8090)
    assert boxes.energy(spread([])).all() == []
    with pytest.raises(ValueError):
        boxes.energy(spread([])).any()


def test_run_spreads_any_function_over_sandboxes(cluster: Any) -> None:
    with betterbox.deploy(work.Sand, 8090, slots=2):
        boxes: Any = SpreadBox.connect(8090, require=2)
        assert boxes.run(work.double, spread(range(10))).result() == [2 * x for x in range(10)]


def test_a_served_object_takes_spread_items_between_direct_calls(cluster: Any) -> None:
    with serve(work.Tester(), 8090, block=False):
        boxes: Any = SpreadBox.connect(8090)
        spread_call = boxes.energy(spread(range(1000)))
        assert boxes.name().result() == ["MyBox"]
        assert spread_call.compute(sum) == sum(range(1000))


def test_a_deployment_that_cannot_start_says_why(cluster: Any) -> None:
    class Broken(Box):
        def __init__(self) -> None:
            raise ZeroDivisionError("no start")

    with pytest.raises(ZeroDivisionError, match="no start"):
        betterbox.deploy(Broken, 8090)


def test_a_closed_deployment_is_gone(cluster: Any) -> None:
    betterbox.deploy(work.Tester, 8090).close()
    with pytest.raises((NoBoxFoundError, BoxLostError)):
        for _ in range(1000):
            RemoteBox.connect(8090, timeout=0.1).name().result()


def test_closing_a_box_whose_call_does_not_end_harms_nobody(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("betterbox._serving.STOP_TIMEOUT", 0.1)
    serving = serve(work.Tester(), 8090, block=False)
    promise = RemoteBox.connect(8090).wait(str(tmp_path / "gate"))
    wait_until(lambda: RemoteBox.connect(8090).beside().result() == 0, "the box is busy")
    serving.close()
    betterbox._serving._agents.pop(cluster.bus).stop()
    (tmp_path / "gate").touch()
    serving._thread.join(30)
    assert not serving._thread.is_alive()
    with pytest.raises(BoxLostError):
        promise.result(30)
