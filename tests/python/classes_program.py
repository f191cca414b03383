"""Classes of a script (test_by_value.py): each goes to a slot and comes home twice, and works at both ends.

The script's own classes stay as they are: no attribute of theirs is another object afterwards.
"""

import abc, collections, ctypes, dataclasses, datetime, enum, functools, multiprocessing, pickle, sys, weakref
from typing import ClassVar, Generic, NamedTuple, NewType, ParamSpec, Protocol, TypedDict, TypeVar
from dataclasses import field
from typing import Any, runtime_checkable

import betterbox

T = TypeVar("T")
P = ParamSpec("P")
Bound = TypeVar("Bound", bound="Tree", covariant=True)
Either = TypeVar("Either", int, str)
Metres = NewType("Metres", int)


@dataclasses.dataclass
class Point:
    x: int = 1
    y: list = dataclasses.field(default_factory=list)
    shared: ClassVar[int] = 9
    given: dataclasses.InitVar[int] = 3

    def __post_init__(self, given):
        self.z = given


@dataclasses.dataclass(slots=True, frozen=True, kw_only=True, order=True)
class Slotted:
    a: int
    b: tuple = ()


@dataclasses.dataclass
class Child(Point):
    w: float = 2.0
    _: dataclasses.KW_ONLY
    q: int = 5


class Pair(NamedTuple):
    x: int
    y: int = 0

    def total(self):
        return self.x + self.y


if sys.version_info >= (3, 11):

    class GenericPair(NamedTuple, Generic[T]):
        v: T


Old = collections.namedtuple("Old", "a b", defaults=[4])


class Colour(enum.Enum):
    RED = 1
    GREEN = 2
    ALIAS = 1

    def is_red(self):
        return self is Colour.RED


class Planet(enum.Enum):
    MERCURY = (3.3e23, 2.4e6)
    EARTH = (5.97e24, 6.3e6)

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius


class Axis(bytes, enum.Enum):
    X = (0, "the x axis")
    Y = (1, "the y axis")

    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_, made.label = value, label
        return made


class Number(enum.IntEnum):
    A = 1
    B = 2


class Bits(enum.IntFlag):
    R = 4
    W = 2


class NoMembers(enum.Enum):
    def value_and_one(self):
        return self.value + 1


class Day(datetime.date, enum.Enum):
    X = (2020, 1, 2)


class Place(tuple, enum.Enum):
    A = (1, 2)


class Lenient(enum.Enum):
    A = 1

    @classmethod
    def _missing_(cls, value):
        return cls.A


class Holder(Generic[T]):
    def __init__(self, v: T):
        self.v = v


class IntHolder(Holder[int]):
    pass


@runtime_checkable
class Runs(Protocol):
    def run(self) -> int: ...


class GenericRuns(Protocol[T]):
    def run(self) -> T: ...


class Runner(Runs):
    def run(self):
        return 5


class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self): ...


class Concrete(Abstract):
    def f(self):
        return 7


class Above(Concrete):
    def f(self):
        return super().f() + 1


@Abstract.register
class Virtual:
    pass


class Tools:
    @functools.cached_property
    def kept(self):
        return 42

    @functools.lru_cache
    def doubled(self, x):
        return x * 2

    @functools.singledispatchmethod
    def kind(self, x):
        return "object"

    @kind.register
    def _(self, x: int):
        return "int"

    def add(self, a, b):
        return a + b

    add_ten = functools.partialmethod(add, 10)

    @staticmethod
    def fixed():
        return "fixed"

    @classmethod
    def named(cls):
        return cls.__name__


@functools.singledispatch
def kind(x):
    return "object"


@kind.register
def _(x: int):
    return "int"


@kind.register(Point)
def _(x):
    return "Point"


@functools.lru_cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


class Plugin:
    known = {}

    def __init_subclass__(cls, key, **others):
        super().__init_subclass__(**others)
        Plugin.known[key] = cls
        cls.key = cls.needed


class First(Plugin, key="one"):
    needed = 3


class Meta(type):
    made = []

    def __new__(meta, name, bases, space, tag=None):
        space["fields"] = [each for each in space if not each.startswith("_")]
        space["doc"] = space["__doc__"]
        Meta.made.append(name)
        return super().__new__(meta, name, bases, space)

    def __init__(cls, name, bases, space, tag=None):
        cls.tag = tag

    def __setattr__(cls, name, value):
        if name != "tag":
            raise TypeError("it is read-only")
        super().__setattr__(name, value)


class WithMeta(metaclass=Meta, tag="T"):
    "its doc"
    a = 1


class Named:
    def __set_name__(self, owner, name):
        self.name = "_" + name

    def __get__(self, instance, owner):
        return self if instance is None else getattr(instance, self.name)

    def __set__(self, instance, value):
        setattr(instance, self.name, value)


class Described:
    d = Named()

    def __init__(self):
        self.d = 4


class Outer:
    class Inner:
        def __init__(self):
            self.outer = Outer

        class Deep(enum.Enum):
            A = 1


class Slots:
    __slots__ = ("a", "__hidden", "__weakref__")

    def __init__(self):
        self.a, self.__hidden = 1, 2

    def hidden(self):
        return self.__hidden


class SlotsBelow(Slots):
    __slots__ = "b"

    def __init__(self):
        super().__init__()
        self.b = 9


class Watched:
    live = weakref.WeakSet()
    by_name = weakref.WeakValueDictionary()

    def __init__(self):
        Watched.live.add(self)
        Watched.by_name["x"] = self


class Tree:
    def __init__(self):
        self.kind = Tree

    def __reduce__(self):
        return Tree, ()


class Single:
    made = None

    def __new__(cls):
        if cls.made is None:
            cls.made = super().__new__(cls)
        return cls.made


class Sentinel:
    def __reduce__(self):
        return "MISSING"


MISSING = Sentinel()


class Numbers(list):
    def __init__(self, *numbers):
        super().__init__(numbers)
        self.extra = 1


class Packed(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int)]


class OddNames:
    __doc__ = property(lambda self: "my doc")
    __name__ = property(lambda self: "my name")

    @property
    def __dict__(self):
        return {}


class NameOfItsOwn:
    __name__ = 5


class Frozen:
    def __setattr__(self, name, value):
        raise AttributeError(name)


class Base:
    pass


class FirstBase(Base):
    def order(self):
        return "first"


class SecondBase(Base):
    def order(self):
        return "second"


def make_local():
    class Local:
        def own(self):
            return Local

    return Local


Local = make_local()


def marked(fn):
    @functools.wraps(fn)
    def wrapper(x):
        return "marked", fn(x)

    return wrapper


@marked
def same(x):
    return x


def made_in_a_slot():
    class Made(Point):
        pass

    return Made(3)


def pickled_in_a_slot(point):
    kept = pickle.loads(pickle.dumps([point, Colour.RED, Pair(1)]))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        back = pool.map(echo, kept)
    assert kept == back == [point, Colour.RED, Pair(1)] and back[1] is Colour.RED
    return pickle.dumps(kept), [type(each) for each in kept]


def made_with_a_field():
    @dataclasses.dataclass
    class Made:
        x: Metres = field(default=3)
        field = field

    return Made().x, Made.field is dataclasses.field


def cannot_be_made(cls):
    try:
        cls()
    except TypeError:
        return True
    return False


def echo(value):
    return value


def twice_changed(model):
    Model.count = 1000
    Model.names.append("the slot's")
    return model


def anything(_: Any) -> bool:
    return True


# (value, what holds of it in a slot, what holds of it at home)
IDENTICAL = [
    (Colour.ALIAS, lambda m: m.is_red() and list(Colour) == [Colour(1), Colour(2)] and Colour["ALIAS"] is m),
    (Planet.EARTH, lambda p: p.mass == 5.97e24 and Planet((3.3e23, 2.4e6)).radius == 2.4e6),
    (Axis.Y, lambda a: a.label == "the y axis" and bytes(a) == b"\x01" and Axis(1) is a),
    (Number.B, lambda n: n + 1 == 3 and Number(1) is Number.A),
    (NoMembers, lambda cls: cls("Derived", "A B").B.value_and_one() == 3),
    (Day.X, lambda d: d.year == 2020),
    (Place.A, lambda p: p[1] == 2),
    (Lenient.A, lambda m: Lenient(99) is m),
    (Outer.Inner.Deep.A, anything),
    (T, anything),
    (P, anything),
    (Bound, lambda t: t.__covariant__),
    (Either, lambda t: t.__constraints__ == (int, str)),
    (Metres, lambda m: m(3) == 3 and m.__supertype__ is int and Metres is m),
    (Single(), anything),
    (MISSING, lambda m: m is MISSING),
    (Abstract, cannot_be_made),
    (Point, lambda cls: cls().y == [] and dataclasses.fields(cls)[0].default_factory is dataclasses.MISSING),
    (GenericRuns, anything),
]
if sys.version_info >= (3, 11):
    IDENTICAL.append((GenericPair, lambda cls: cls(2).v == 2))
    from typing import Required, TypeVarTuple

    Ts = TypeVarTuple("Ts")

    class Word(enum.StrEnum):
        a = enum.auto()
        b = enum.auto()

    class Right(enum.Flag, boundary=enum.KEEP):
        R = 4
        W = 2
        X = 1
        RW = 6

    class Strict(enum.Flag, boundary=enum.STRICT):
        R = 4
        W = 2

    class Movie(TypedDict, total=False):
        a: int
        b: Required[str]

    IDENTICAL += [
        (Ts, anything),
        (Word.b, lambda w: w == "b" and f"{w}" == str(w) == "b"),
        (Right.R | Right.X, lambda r: Right.R in r and Right.RW == Right.R | Right.W and ~r == Right.W),
        (Strict.R | Strict.W, lambda s: Strict.R in s and Strict(6) is s),
        (Movie, lambda m: m(a=1, b="x") == {"a": 1, "b": "x"} and m.__required_keys__ == frozenset("b")),
    ]
EQUAL = [
    (Point(5), lambda p: dataclasses.asdict(dataclasses.replace(p, given=1, x=2)) == {"x": 2, "y": []}),
    (Slotted(a=1), lambda s: dataclasses.replace(s, a=3) > s and hash(s) == hash(Slotted(a=1))),
    (Child(3, q=7), lambda c: len(dataclasses.fields(c)) == 4),
    (Pair(1, 2), lambda p: p._replace(x=4).total() == 6 and Pair(5).y == 0),
    (Old(1), lambda o: o._asdict() == {"a": 1, "b": 4}),
    (Bits.R | 8, lambda b: b == 12),
    (Numbers(1, 2), lambda n: n.extra == 1),
    ([dataclasses.MISSING, Colour, Metres, Holder[T]], lambda many: many[0] is dataclasses.MISSING),
    ({Colour.RED: 1}, lambda d: d[Colour.RED] == 1),
]
ALIKE = [
    (Holder(3), lambda h: h.v == 3 and Holder.__parameters__ == (T,)),
    (IntHolder(3), lambda h: isinstance(h, Holder) and IntHolder.__orig_bases__[0].__args__ == (int,)),
    (Runner(), lambda r: isinstance(r, Runs) and r.run() == 5 and not isinstance(3, Runs)),
    (Above(), lambda a: isinstance(a, Abstract) and a.f() == 8),
    (Virtual(), lambda v: isinstance(v, Abstract)),
    (Tools(), lambda t: t.kept == 42 and t.doubled(4) == 8 and t.kind(3) == "int" and t.kind("") == "object"),
    (Tools(), lambda t: t.add_ten(1) == 11 and t.fixed() == "fixed" and t.named() == "Tools"),
    ([kind], lambda many: many[0](3) == "int" and kind("") == "object" and kind(Point()) == "Point"),
    ([fibonacci], lambda many: many[0](30) == fibonacci(30) == 832040),
    ([same], lambda many: many[0](3) == ("marked", 3) and many[0].__wrapped__(3) == 3),
    (First(), lambda f: Plugin.known == {"one": First} and f.key == 3),
    (WithMeta(), lambda w: type(w).tag == "T" and type(w).fields == ["a"] and type(w).doc == "its doc"),
    (Described(), lambda d: d.d == 4),
    (Outer.Inner(), lambda i: i.outer.Inner is type(i)),
    (SlotsBelow(), lambda s: s.hidden() == 2 and SlotsBelow().b == 9 and not hasattr(s, "__dict__")),
    (Watched(), lambda w: list(Watched.live) == [w]),
    (Tree(), lambda t: t.kind is Tree),
    (Packed(3), lambda p: p.x == 3),
    (Local(), lambda here: here.own() is type(here)),
    (Frozen(), anything),
    (OddNames(), lambda o: (o.__name__, o.__doc__, o.__dict__) == ("my name", "my doc", {})),
    (NameOfItsOwn(), lambda o: o.__name__ == 5 and type(o).__name__ == "NameOfItsOwn"),
]


WRITTEN_BY_PYTHON = {"__slotnames__", "__annotations_cache__"}  # when somebody asks


def attributes_of(value):
    cls = value if isinstance(value, type) else type(value)
    return {name: each for name, each in vars(cls).items() if name not in WRITTEN_BY_PYTHON}


def trip(value, holds, comes_home):
    for _ in range(2):
        before = attributes_of(value)
        back = betterbox.submit(echo, value).result(20)
        assert comes_home(back), (value, back)
        assert type(back) is type(value), (value, type(back))
        assert betterbox.submit(lambda v: bool(holds(v)), value).result(20), value
        after = attributes_of(value)
        changed = [name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)]
        assert not changed, (value, changed)


def main():
    with betterbox.LocalCluster(slots=2):
        for value, holds in IDENTICAL:
            trip(value, holds, lambda back: back is value)
        for value, holds in EQUAL:
            trip(value, holds, lambda back: back == value)
        for value, holds in ALIKE:
            trip(value, holds, anything)
        assert Plugin.known == {"one": First} and Meta.made == ["WithMeta"]
        assert betterbox.map(kind, [1, "a", Point()]).result(20) == ["int", "object", "Point"]

        data, kinds = betterbox.submit(pickled_in_a_slot, Point(4)).result(20)
        assert [type(each) for each in pickle.loads(data)] == kinds == [Point, Colour, Pair]
        assert betterbox.submit(made_with_a_field).result(20) == (3, True)
        made = betterbox.submit(made_in_a_slot).result(20)
        assert isinstance(made, Point) and type(betterbox.submit(echo, made).result(20)) is type(made)
        assert not isinstance(betterbox.submit(made_in_a_slot).result(20), type(made))

        global Model

        class Model(Base):
            count, names = 1, []

        names = Model.names
        betterbox.submit(twice_changed, Model()).result(20)
        assert Model.count == 1 and Model.names is names and names == []
        ask = lambda model: (type(model).count, Model.count)  # noqa: E731
        assert betterbox.submit(ask, Model()).result(20) == (1, 1)
        Model.count = 2
        assert betterbox.submit(ask, Model()).result(20) == (2, 2)

        Model.extra, Model.__bases__ = 5, (FirstBase, SecondBase)
        ask = lambda: (hasattr(Model, "extra"), Model().order())  # noqa: E731
        assert betterbox.submit(ask).result(20) == (True, "first")
        del Model.extra
        Model.__bases__ = (SecondBase, FirstBase)
        assert betterbox.submit(ask).result(20) == (False, "second")

        ask = lambda model: (type(model).count, Model.count)  # noqa: E731

        class Model:  # as when a cell is run again
            count, names = 3, []

        assert betterbox.submit(ask, Model()).result(20) == (3, 3)
    print("ok")


if __name__ == "__main__":
    main()
