"""What a notebook does: cells that run again with changed classes, and looks at objects: `repr`, `help`, signatures."""

from __future__ import annotations

import inspect
import os
import pydoc
import re
from pathlib import Path
from typing import Any

import betterbox
import pytest
from betterbox import Box, GroupBox, RemoteBox, SpreadBox, concurrent, deploy, serve
from helpers import wait_until

pytestmark = pytest.mark.usefixtures("cluster")

SERVED = """
from betterbox import Box, persist, serve_box

@serve_box({port}, block=False)
@persist("model")
class Model(Box):
    seen: int = 0
    def see(self): self.seen += 1; return ({version}, self.seen)
"""
CLASS = """
from betterbox import Box, persist

class Model(Box):
    def see(self): return {version}
"""


def cell(text: str, **fields: object) -> dict[str, Any]:
    """Run a cell; what it defined."""
    names: dict[str, Any] = {"__name__": "a_notebook"}
    exec(text.format(**fields), names)
    return names


# --- classes that are defined again ----------------------------------------------------------------


def test_a_class_that_is_served_again_replaces_itself_with_its_state(home: Path) -> None:
    first = cell(SERVED, port=8090, version=1)["Model"]
    assert RemoteBox.connect(8090).see().result() == (1, 1)
    second = cell(SERVED, port=8090, version=2)["Model"]
    assert GroupBox.connect(8090).see().result() == [(2, 2)], "one box, which has the state of the one before"
    assert second.instance().seen == 2
    with pytest.raises(betterbox.BetterBoxError, match="no instance"):
        first.instance()
    cell(SERVED, port=8091, version=3)  # the state goes with the name, so the port may change in the cell
    assert RemoteBox.connect(8091).see().result() == (3, 3)
    with pytest.raises(betterbox.NoBoxFoundError):
        RemoteBox.connect(8090, timeout=0.1)


def test_all_objects_of_the_class_as_it_was_are_replaced_and_those_as_it_is_are_not() -> None:
    old, new = cell(CLASS, version=1)["Model"], cell(CLASS, version=2)["Model"]
    servings = [serve(old(), 8090, block=False), serve(old(), 8090, block=False), serve(old(), 8091, block=False)]
    again = [serve(new(), 8090, block=False), serve(new(), 8090, block=False)]
    assert GroupBox.connect(8090).see().result() == [2, 2]
    assert [serving.closed for serving in (*servings, *again)] == [True, True, False, False, False]
    assert RemoteBox.connect(8091).see().result() == 1, "another port"


def test_classes_of_one_name_that_functions_make_are_served_side_by_side() -> None:
    def make(answer: int) -> type[Box]:
        class Model(Box):
            def see(self) -> int:
                return answer

        return Model

    with serve(make(1), 8090), serve(make(2), 8090):
        assert GroupBox.connect(8090, require=2).see().result() == [1, 2]


def test_a_class_that_uses_boxes_and_is_defined_again_has_one_instance() -> None:
    text = "from betterbox import RemoteBox, use_box\n@use_box(8090)\nclass User(RemoteBox):\n    version = {version}\n"
    with serve(cell(CLASS, version=1)["Model"], 8090):
        first, second = cell(text, version=1)["User"], cell(text, version=2)["User"]
        assert second.instance().version == 2 and second.instance().see().result() == 1
        with pytest.raises(betterbox.BetterBoxError, match="no instance"):
            first.instance()


def test_a_deployed_class_that_is_defined_again_replaces_what_was_deployed() -> None:
    old, new = cell(CLASS, version=1)["Model"], cell(CLASS, version=2)["Model"]
    first = deploy(old, 8090, slots=2)
    assert GroupBox.connect(8090, require=2).see().result() == [1, 1]
    with deploy(new, 8090, slots=1):
        wait_until(lambda: GroupBox.connect(8090).see().result() == [2], "the old ones have gone")
    assert "closed" in repr(first)


# --- what objects look like ------------------------------------------------------------------------


class Greeter(Box):
    def greet(self, name: str = "you", *rest: int, loud: bool = False, how: object = os.path) -> list[str]:
        """Say hello.

        To whom it may concern.
        """
        return [name]

    @concurrent
    def plain(self) -> None: ...

    async def wait(self, seconds: float) -> None:
        """Asynchronous."""


def test_the_repr_of_what_users_handle_says_what_it_is(cluster: betterbox.LocalCluster) -> None:
    assert repr(Greeter()) == "<box Greeter>"
    with serve(Greeter, 8090) as serving:
        assert repr(serving.box) == "<box Greeter served at port 8090>"
        boxes = [RemoteBox.connect(8090), GroupBox.connect(8090), SpreadBox.connect(8090)]
        pid = os.getpid()
        assert repr(boxes[0]) == f"<RemoteBox of the box Greeter (pid {pid} on {os.uname().nodename}) at port 8090 of {cluster.bus}>"
        assert repr(boxes[1]) == f"<GroupBox of 1 box Greeter at port 8090 of {cluster.bus}>"
        assert "<method greet of" in repr(boxes[0].greet)
        executor = betterbox.Executor(retries=0)
        shown = [*boxes, executor, betterbox.options(retries=1, name="a"), cluster, serving, betterbox.spread([1])]
        for each in shown:
            assert not re.search(r"object at 0x", repr(each)), repr(each)
    assert repr(betterbox.options(retries=1, name="a")) == "betterbox.options(retries=1, name='a')"
    assert "options(retries=0)" in repr(executor)
    wait_until(lambda: "no box any more" in repr(boxes[0]), "the client was told")


def test_the_repr_of_a_promise_tells_how_it_ended() -> None:
    good, bad = betterbox.submit(abs, -1), betterbox.submit(divmod, 1, 0)
    some = betterbox.map(abs, [1, "x"])
    for promise in (good, bad, some):
        wait_until(promise.done, "an outcome")
    assert "done" in repr(good)
    assert "failed with ZeroDivisionError" in repr(bad) and "failed with TypeError" in repr(some)


def test_an_explanation_prints_as_its_report_in_ipython() -> None:
    promise = betterbox.map(abs, range(3))
    promise.result()
    explanation, shown = promise.explain(), []

    class Printer:
        text = staticmethod(shown.append)

    explanation._repr_pretty_(Printer(), False)
    assert shown == [str(explanation)] and "3 of 3 items settled" in shown[0]


def test_remote_methods_have_signature_and_docstring_of_their_method() -> None:
    with serve(Greeter, 8090), serve(type("Relay", (RemoteBox,), {}).connect(8090), 8091):
        for box in (RemoteBox.connect(8090), GroupBox.connect(8090), RemoteBox.connect(8091)):
            assert box.greet.__doc__ == inspect.getdoc(Greeter.greet)
            assert box.plain.__doc__ is None and box.wait.__doc__ == "Asynchronous."
            signature = inspect.signature(box.greet)
            assert [*signature.parameters] == ["name", "rest", "loud", "how"]
            assert signature.parameters["name"].default == "you" and signature.parameters["loud"].default is False
            assert re.fullmatch(
                r"\(name: 'str' = 'you', \*rest: 'int', loud: 'bool' = False, how: 'object' = <module .*>\) -> 'list\[str\]'",
                str(signature),
            )
            assert str(inspect.signature(box.plain)) == "() -> 'None'"
            told = pydoc.plain(pydoc.render_doc(box.greet))
            assert "name: 'str' = 'you'" in told and "To whom it may concern." in told
            assert {"greet", "plain", "wait"} <= set(dir(box)) and not any("describe" in name for name in dir(box))


def test_what_is_said_of_a_method_has_bounds_and_needs_no_import() -> None:
    from betterbox import _described

    class Odd(Box):
        def many(self, value: Any = list(range(1000)), more: Any = object) -> None: ...

        def broken(self) -> None: ...

    Odd.many.__doc__ = "x" * 100_000
    Odd.broken.__signature__ = "none"  # type: ignore[attr-defined]
    found = _described.describe(Odd(), {"many": 0, "broken": 0, "gone": 0})
    assert len(found["many"][0]) < 20_000
    signature = _described.signature_of(found["many"])
    assert signature is not None
    assert len(repr(signature.parameters["value"].default)) <= 200 and signature.parameters["more"].default is object
    assert _described.signature_of(found["broken"]) is None and found["gone"] == (None, None, None)
