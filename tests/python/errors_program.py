"""Exceptions of a script with an ``__init__`` of their own (test_by_value.py): they arrive as their class, with their state."""

import sys
import threading

import betterbox


class SolverError(Exception):
    def __init__(self, code, what):
        self.code = code
        super().__init__(f"{what} ({code})")


class KeywordError(Exception):
    def __init__(self, *, code):
        self.code = code
        super().__init__(code)


class HoldsLock(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()
        self.kept = [1]


class BadReduce(Exception):
    def __init__(self, text, number):
        super().__init__(text)
        self.number = number

    def __reduce__(self):
        raise ValueError("no")


class WrongReduce(BadReduce):
    def __reduce__(self):
        return WrongReduce, self.args


class GoodReduce(BadReduce):
    def __reduce__(self):
        return GoodReduce, (*self.args, self.number)


class NoFile(OSError):
    def __init__(self, path):
        super().__init__(2, "none", path)
        self.asked = path


class NoText(UnicodeDecodeError):
    def __init__(self, number):
        super().__init__("utf-8", b"abc", 0, 1, "why")
        self.number = number


class Made(Exception):
    def __new__(cls, one, two):
        made = super().__new__(cls, one)
        made.two = two
        return made

    def __init__(self, one, two):
        pass


class Slotted(Exception):
    __slots__ = ("one",)

    def __init__(self, one, two):
        super().__init__(one)
        self.one = one


class BadStr(SolverError):
    def __str__(self):
        raise RuntimeError("no text")


class BadAttributes(Exception):
    def __getattr__(self, name):
        raise RuntimeError(name)


class Frozen(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        vars(self)["two"] = two

    def __setattr__(self, name, value):
        raise AttributeError(name)


class Round(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.own = self


TRAVEL = [  # also as values
    (lambda: SolverError(7, "diverged"), lambda e: e.code == 7 and str(e) == "diverged (7)"),
    (lambda: KeywordError(code=3), lambda e: e.code == 3 and e.args == (3,)),
    (lambda: GoodReduce("m", 2), lambda e: e.number == 2),
    (lambda: NoFile("/x"), lambda e: (e.errno, e.filename, e.asked, e.args) == (2, "/x", "/x", (2, "none"))),
    (lambda: NoText(5), lambda e: e.number == 5 and e.reason == "why"),
    (lambda: Made(1, 2), lambda e: e.two == 2 and e.args == (1,)),
    (lambda: Slotted(1, 2), lambda e: e.one == 1),
    (lambda: BadStr(7, "x"), lambda e: e.code == 7),
    (lambda: BadAttributes(1), lambda e: e.args == (1,)),
    (lambda: Frozen(1, 2), lambda e: e.two == 2),
    (lambda: Round(1, 2), lambda e: e.own is e),
    (lambda: FileNotFoundError(2, "x", "f"), lambda e: e.filename == "f"),
]

HAS_GROUPS = sys.version_info >= (3, 11)
if HAS_GROUPS:

    class Group(ExceptionGroup):
        def __new__(cls, text, errors, code):
            made = super().__new__(cls, text, errors)
            made.code = code
            return made

        def __init__(self, text, errors, code):
            pass

    TRAVEL += [
        (
            lambda: Group("g", [SolverError(1, "x"), ExceptionGroup("h", [KeywordError(code=2)])], 5),
            lambda e: e.code == 5 and e.exceptions[0].code == 1 and e.exceptions[1].exceptions[0].code == 2,
        )
    ]
IN_PART = [
    (lambda: HoldsLock("m"), lambda e: e.kept == [1] and "left behind, because it cannot be pickled: lock" in str(e.__cause__)),
    (lambda: BadReduce("m", 2), lambda e: e.number == 2),
    (lambda: WrongReduce("m", 2), lambda e: e.number == 2),
    (lambda: Exception(1, threading.Lock()), lambda e: e.args[0] == 1 and "lock" in e.args[1]),
] + (
    [(lambda: ExceptionGroup("g", [HoldsLock("x")]), lambda e: e.exceptions[0].kept == [1])] if HAS_GROUPS else []
)


def fail(make):
    error = make()
    vars(error)["__notes__"] = ["a note"]
    raise error


def value(make):
    return make()


def fail_in_turn():
    try:
        try:
            raise SolverError(1, "first")
        except SolverError as error:
            raise KeywordError(code=9) from error
    except KeywordError:
        raise ValueError("last")


def raised(fn, *args):
    try:
        betterbox.submit(fn, *args).result(20)
    except Exception as error:
        return error
    raise AssertionError(f"{fn} did not fail")


def main():
    with betterbox.LocalCluster(slots=1):
        for make, holds in TRAVEL + IN_PART:
            error = raised(fail, make)
            assert type(error) is type(make()) and holds(error), error
            assert error.__notes__ == ["a note"], error
            assert isinstance(error.__cause__, betterbox.RemoteError)
        for make, holds in TRAVEL:
            error = betterbox.submit(value, make).result(20)
            assert type(error) is type(make()) and holds(error), error
        last = raised(fail_in_turn)
        before = last.__context__
        assert type(last) is ValueError and type(before) is KeywordError and before.code == 9
        assert type(before.__context__) is SolverError and before.__context__.code == 1
    print("ok")


if __name__ == "__main__":
    main()
