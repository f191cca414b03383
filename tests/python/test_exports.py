"""What a box gives to its clients."""

from __future__ import annotations

from typing import Any

import pytest
from betterbox import Box, SandBox, concurrent, private
from betterbox._exports import exports, find_method, is_sandbox


class Example(Box):
    constant = 3

    def plain(self) -> int:
        return 1

    @staticmethod
    def static() -> int:
        return 2

    @property
    def prop(self) -> int:
        return 4

    @private
    def hidden(self) -> None: ...

    def _underscored(self) -> None: ...

    @concurrent
    def beside(self) -> None: ...

    async def later(self) -> None: ...

    class Inner: ...


def test_public_methods_are_exported_with_their_flags() -> None:
    assert exports(Example()) == [("beside", 1), ("later", 2), ("plain", 0), ("static", 0)]


def test_an_override_may_take_privacy_back_or_add_it() -> None:
    class Child(Example):
        def hidden(self) -> None: ...

        plain = private(Example.plain)

    try:
        assert [name for name, _ in exports(Child())] == ["beside", "hidden", "later", "static"]
    finally:
        del Example.plain.__betterbox_private__  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["hidden", "_underscored", "__class__", "__init__"])
def test_private_methods_are_refused_whoever_asks(name: str) -> None:
    box = Example()
    with pytest.raises(AttributeError, match="private"):
        find_method(box, name, dict(exports(box)))


def test_a_missing_method_suggests_the_nearest() -> None:
    box = Example()
    with pytest.raises(AttributeError, match="did you mean 'plain'"):
        find_method(box, "plane", dict(exports(box)))


@pytest.mark.parametrize("name", ["constant", "prop", "Inner", "instance"])
def test_what_is_no_method_is_not_called(name: str) -> None:
    box = Example()
    with pytest.raises(AttributeError):
        find_method(box, name, dict(exports(box)))


def test_a_sandbox_takes_methods() -> None:
    box = SandBox()

    def double(self: Any, x: int) -> int:
        return 2 * x

    box.inject(double)
    assert is_sandbox(box) and not is_sandbox(Example())
    assert find_method(box, "double", dict(exports(box)))(4) == 8
    with pytest.raises(ValueError):
        box.inject(double, "_double")
