"""A program over the whole interface, which prints the same whatever carries its messages (test_mpi.py).

``api_program.py cluster NAME`` has a bus of its own, ``api_program.py mpi NAME`` uses the one that is there; NAME is that of a
box that is kept.
"""

import asyncio, sys
from contextlib import nullcontext

import betterbox
from betterbox import Box, GroupBox, LocalCluster, RemoteBox, SandBox, SpreadBox, deploy, persist, serve, spread, use_box


class Keeper(Box):
    def __init__(self):
        self.seen = 0

    def name(self):
        return "MyBox"

    def add(self, number):
        self.seen += number
        return self.seen

    def square(self, x):
        return x * x

    def fail(self, x):
        raise ValueError(f"no {x}")

    async def later(self, x):
        await asyncio.sleep(0)
        return x + 1


class Sand(SandBox):
    pass


def triple(x):
    return 3 * x


def times(self, x):
    return 4 * x


def check(x, limit):
    if x == limit:
        raise KeyError(x)
    return x


def told(error):
    return f"{type(error).__name__}: {error} | {type(error.__cause__).__name__}"


def one_box():
    with serve(Keeper, 8090):

        @use_box(8090)
        class Other(RemoteBox):
            def __init__(self):
                print("I m", self.name().any())

        box = Other.instance()
        print(box.add(2).result(), box.add(3).any(), box.add(4).all(), box.later(1).result(), box.add(5).compute(sum))
        try:
            box.fail(7).result()
        except ValueError as error:
            print(told(error))
        print(box.square(box.square(3)).result(), Other() is box)

        async def wait():
            return await box.square(5)

        print(asyncio.run(wait()))
        try:
            box.square.options(nonsense=1)
        except Exception as error:
            print(type(error).__name__, "nonsense" in str(error))
        with serve(Other.instance(), 9090):
            print("relayed", RemoteBox.connect(9090).name().result())


def many_boxes():
    with deploy(Keeper, 8091, slots=3):
        group = GroupBox.connect(8091, require=3)
        print(group.name().all(), group.square(4).compute(sum))
        print([type(e).__name__ for e in group.fail(1).all(return_exceptions=True)])
        sweep = SpreadBox.connect(8091, require=3)
        print(sweep.square(spread(range(50))).all() == [x * x for x in range(50)])
        print(sweep.square(spread(range(50))).compute(sum), sweep.square(spread(x for x in range(10))).all())
        print(sorted(sweep.square(spread(range(5))).as_completed()), list(sweep.square(spread(range(5)))))
        print(sweep.square.options(reduce=lambda a, b: a + b)(spread(range(100))).result())
        print(sweep.square(spread([])).all(), sweep.square(spread([2])).progress()[1])
        try:
            sweep.fail(spread([3, 4, 5])).all()
        except ValueError as error:
            print(told(error))
        for wrong in (lambda: sweep.square(spread([])).any(), lambda: sweep.square(spread([1]), spread([1, 2]))):
            try:
                wrong()
            except ValueError:
                print("ValueError")


def sand_boxes():
    with deploy(Sand, 8092, slots=2):
        sand = SpreadBox.connect(8092, require=2)
        print(sand.run(triple, spread(range(6))).all())
        sand.inject(times).all()
        print(GroupBox.connect(8092, require=2).times(5).all())


def functions():
    print(betterbox.submit(triple, 14).result(), betterbox.map(triple, range(7)).all())
    print(betterbox.map(pow, [2, 3], [4, 5]).result(), betterbox.options(name="n").submit(divmod, 7, 3).result())
    print(betterbox.map(check, range(5), [9] * 5).compute(sum))
    try:
        betterbox.map(check, range(5), [3] * 5).all()
    except KeyError as error:
        print(told(error))
    with betterbox.Executor() as executor:
        print(list(executor.map(triple, range(4))), executor.submit(triple, 5).result())
    print(betterbox.map(lambda x: x, range(10**5)).compute(sum), len(betterbox.submit(bytes, 30_000_000).result()))
    ref = betterbox.put(list(range(1000)))
    print(betterbox.submit(sum, ref).result(), betterbox.map(lambda i, r: r[i], range(3), [ref] * 3).all())
    promise = betterbox.submit(triple, betterbox.submit(triple, 1))
    print(promise.result(), promise.done(), promise.progress())
    print(betterbox.map(triple, range(100), reduce=max).result())


def kept():
    @persist(sys.argv[2])
    class ABox(Box):
        data = 0

        def up(self):
            self.data += 1
            return self.data

    for _ in range(2):
        with serve(ABox, 8093):
            print("kept", RemoteBox.connect(8093).up().result())


if __name__ == "__main__":
    with LocalCluster(slots=1, workers=3) if sys.argv[1] == "cluster" else nullcontext():
        one_box()
        many_boxes()
        sand_boxes()
        functions()
        kept()
    print("end")
