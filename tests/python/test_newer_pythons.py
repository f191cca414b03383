"""Scripts in what newer versions of Python understand: it makes its trips to slots and home as everything else does."""

from __future__ import annotations

import sys

import pytest
from helpers import Scripts

PARAMETERS = """
    import betterbox

    type Vector = list[float]
    type Pair[T] = tuple[T, T]


    class Stack[T]:
        kept: list[T]

        def __init__(self, *kept: T) -> None:
            self.kept = list(kept)

        def top(self) -> T:
            return self.kept[-1]


    class Sorted[T: int](Stack[T]):
        def top(self) -> T:
            return max(self.kept)


    def first[T](items: list[T], like: Vector | None = None) -> T:
        return items[0]


    def length(of: Vector, pair: Pair[int]) -> float:
        return sum(of) + pair[0]


    def about(value):
        return type(value).__name__, type(value).__type_params__[0].__name__, value.top()


    def main():
        with betterbox.LocalCluster(slots=1):
            for stack in (Stack(1, 2), Sorted(3, 1)):
                back = betterbox.submit(lambda it: it, stack).result(20)
                assert type(back) is type(stack) and back.top() == stack.top()
                assert betterbox.submit(about, stack).result(20) == about(stack)
            assert betterbox.submit(first, [7]).result(20) == 7
            assert betterbox.submit(length, [1.0, 2.0], (1, 1)).result(20) == 4.0
            for each in (Stack.__type_params__[0], first.__type_params__[0]):
                assert betterbox.submit(lambda it: it, each).result(20) is each
            assert betterbox.submit(lambda: str(Pair[int].__value__)).result(20) == str(Pair[int].__value__)
        print("ok")


    if __name__ == "__main__":
        main()
"""

NAMES_THAT_ARE_NOT_THERE = """
    import dataclasses
    import inspect

    import betterbox


    def length(of: NotThere, pair: list[int] = ()) -> Later:
        return len(of)


    class Node:
        above: Node | None = None
        below: list[NotThere]

        def meet(self, other: Node) -> Node:
            return other


    @dataclasses.dataclass
    class Place:
        x: int
        near: list[Place] = dataclasses.field(default_factory=list)


    class Counter(betterbox.Box):
        def add(self, to: NotThere, by: int = 1) -> Later:
            return to + by


    def main():
        with betterbox.LocalCluster(slots=1):
            assert betterbox.submit(length, [1, 2]).result(20) == 2
            assert betterbox.map(length, [[1], [2, 3]]).result(20) == [1, 2]
            node = betterbox.submit(lambda it: it.meet(it), Node()).result(20)
            assert type(node) is Node
            told = betterbox.submit(lambda: dict(Node.__annotations__)).result(20)
            assert told["below"] == "list[NotThere]", told
            assert betterbox.submit(lambda it: dataclasses.replace(it, x=2), Place(1)).result(20) == Place(2)
            assert betterbox.submit(lambda: Place.__annotations__["x"] is int).result(20)
            with betterbox.deploy(Counter, 8090):
                counter = betterbox.RemoteBox.connect(8090)
                assert counter.add(1).result(20) == 2
                assert list(inspect.signature(counter.add).parameters) == ["to", "by"]
        print("ok")


    if __name__ == "__main__":
        main()
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has type parameters")
def test_classes_functions_and_aliases_with_parameters_travel(scripts: Scripts) -> None:
    assert scripts.run("parameters.py", PARAMETERS) == "ok\n"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 evaluates annotations when somebody asks")
def test_annotations_that_cannot_be_evaluated_hinder_no_trip(scripts: Scripts) -> None:
    assert scripts.run("annotations.py", NAMES_THAT_ARE_NOT_THERE) == "ok\n"
