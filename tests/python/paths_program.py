"""The paths in a SerializationError (test_by_value.py): what the caller wrote, whatever the culprit raises when it is asked."""

import collections, functools, sys, threading

import betterbox
from betterbox import Executor, GroupBox, RemoteBox, SerializationError, SpreadBox, spread


class Model:
    def __init__(self):
        self._lock = threading.Lock()


class Job:
    def __init__(self):
        self.model = Model()


class Stubborn:
    def __getstate__(self):
        raise ValueError("no state")


class NoReduce:
    def __reduce_ex__(self, protocol):
        raise OSError("no reduce")


class NoMessage:
    def __getstate__(self):
        class Silent(Exception):
            def __str__(self):
                raise ValueError

        raise Silent


class Reduced(Model):
    def __reduce__(self):
        return Reduced, (self._lock,)


class NoRepr(Model):
    def __repr__(self):
        raise RuntimeError("repr")


class NoHash(Model):
    def __hash__(self):
        raise RuntimeError("hash")

    def __eq__(self, other):
        raise RuntimeError("eq")


class NoAttribute(Model):
    def __getattr__(self, name):
        raise RuntimeError(name)


class NoLength(Model):
    def __bool__(self):
        raise RuntimeError("bool")

    def __len__(self):
        raise RuntimeError("len")


class NoLook:
    def __getattribute__(self, name):
        if name == "__class__":  # of which isinstance asks
            return NoLook
        raise RuntimeError(name)


class Shared:
    lock = threading.Lock()


class Slotted:
    __slots__ = ("a", "_lock")

    def __init__(self):
        self._lock = threading.Lock()


class Task(Model):
    def __call__(self, x):
        return x + 1

    def method(self, x):
        return x


class Callable:
    def __call__(self, x):
        return x + 1

    def __hash__(self):
        raise RuntimeError("no hash while training")

    def __eq__(self, other):
        raise RuntimeError("no comparison while training")

    def __getattr__(self, name):
        if name.startswith(("__array", "__getstate__")):
            raise AttributeError(name)
        raise RuntimeError(f"no {name} while training")


class Far(betterbox.Box):
    def use(self, *args, **named):
        pass

    def job(self):
        return Job()


CULPRITS = [
    (Job, ".model._lock", "lock"),
    (Stubborn, "", "Stubborn: ValueError: no state"),
    (NoReduce, "", "NoReduce: OSError: no reduce"),
    (NoMessage, "", "NoMessage: Silent"),
    (Reduced, "._lock", "lock"),
    (NoRepr, "._lock", "lock"),
    (NoHash, "._lock", "lock"),
    # Before Python 3.11 objects had no __getstate__, and pickle asks for it.
    (NoAttribute, "._lock", "lock") if sys.version_info >= (3, 11) else (NoAttribute, "", "NoAttribute"),
    (NoLength, "._lock", "lock"),
    (NoLook, "", "NoLook"),
    (Shared, ".__class__.lock", "lock"),
    (Slotted, "._lock", "lock"),
]


def use(*args, **named):
    pass


def call(fn):
    return fn()


def some(first, last):
    yield from range(first)
    yield last


def want(path, promise_of, text=""):
    try:
        promise = promise_of()
        promise.result(20) if hasattr(promise, "result") else None
    except SerializationError as error:
        said = str(error)
        assert said.startswith(f"{path} cannot be pickled (") and text in said, f"wanted {path} {text}, got {said}"
    else:
        raise AssertionError(f"{path}: no error")


def main():
    submit, bmap = betterbox.submit, betterbox.map
    with betterbox.LocalCluster(slots=1):
        for cls, tail, text in CULPRITS:
            want("args[0]" + tail, lambda: submit(use, cls()), text)
            want("kwargs['job']" + tail, lambda: submit(use, 1, job=cls()), text)
            want("args[0]['k'][1]" + tail, lambda: submit(use, {"k": (1, cls())}), text)
            want("args[0][3]" + tail, lambda: bmap(use, [1, 2, 3, cls()]), text)
        want("args[0][2000]._lock", lambda: bmap(use, some(2000, Model())))
        want("args[1][1]._lock", lambda: bmap(use, [1, 2], [3, Model()]))
        want("args[1]._lock", lambda: Executor().submit(use, 1, Model()))
        want("args[0][1]._lock", lambda: list(Executor().map(use, [1, Model()])))
        want("args[1][0]._lock", lambda: list(Executor().map(use, [1], [Model()])))
        want("args[1]._lock", lambda: submit(use, submit(abs, -1), Model()))
        want("obj._lock", lambda: betterbox.put(Model()))
        want("the result.model._lock", lambda: submit(call, Job))
        want("the result.model._lock", lambda: bmap(call, [Job]))
        want("the result", lambda: submit(call, Stubborn), "Stubborn: ValueError: no state")
        want("fn._lock", lambda: submit(Task(), 1))
        want("fn.__self__._lock", lambda: submit(Task().method, 1))
        want("fn.args[0]._lock", lambda: bmap(functools.partial(use, Model()), [1]))
        want("fn.keywords['m']._lock", lambda: bmap(functools.partial(use, m=Model()), [1]))
        want("args[0][1]", lambda: submit(use, collections.deque([1, threading.Lock()])), "lock")
        want("args[0]['a']", lambda: submit(use, collections.OrderedDict(a=threading.Lock())), "lock")
        want("args[0] (key <NoRepr>)._lock", lambda: submit(use, {NoRepr(): 1}))
        with betterbox.serve(Far, 8090), betterbox.deploy(Far, 8091):
            for box in (RemoteBox.connect(8090), GroupBox.connect(8091)):
                want("args[0].model._lock", lambda: box.use(Job()))
                want("kwargs['job'].model._lock", lambda: box.use(job=Job()))
                want("the result.model._lock", lambda: box.job())
            many = SpreadBox.connect(8091)
            want("args[0][1]._lock", lambda: many.use(spread([1, Model()])))
            want("kwargs['m'][1]._lock", lambda: many.use(spread([1, 2]), m=spread([1, Model()])))
            want("args[1]._lock", lambda: many.use(spread([1, 2]), Model()))
            want("kwargs['z']._lock", lambda: many.use(spread([1, 2]), z=Model()))
        want("the box.model._lock", lambda: betterbox.deploy(type("B", (Far,), {"model": Model()}), 8099))
        assert submit(Callable(), 1).result(20) == 2 and bmap(Callable(), [1]).result(20) == [2]
    print("ok")


if __name__ == "__main__":
    main()
