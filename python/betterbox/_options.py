"""The options of a call, checked; each mistake names the option and its value."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sized
from types import ModuleType
from typing import Any

from betterbox import _resources
from betterbox._errors import nearest

__tracebackhide__ = True  # pytest shows the user's lines

MISSING: Any = object()

POLICIES = ("auto", "static", "ss", "gss", "tss", "fac2", "awf", "af")
_DEFAULT_COPIES = 0.05  # of idempotent calls
_LARGEST_COST = 3.4e38  # what a 32-bit float holds
_MOST_RETRIES = (1 << 32) - 1
_LONGEST_NAME = 1000
_LONGEST_TIMEOUT = 1e9  # seconds, 31 years: the bus counts nanoseconds, and longer is never


class Options:
    """What may be said about a call.

    Parameters
    ----------
    policy : {"auto", "static", "ss", "gss", "tss", "fac2", "awf", "af"}
        How ranges are cut.
    retries : int
        How many deaths of its process an item may cause before it counts as poisoned.
    timeout : float, optional
        Seconds from the call to its last outcome.
    progress : bool
        Show a progress bar on stderr while somebody waits.
    reduce : callable, optional
        ``reduce(a, b)``, associative: folds the results on the workers.
    initial : object, optional
        The value of an empty fold, and its first operand.
    name : str, optional
        What `betterbox status` calls it.
    detach : bool
        Only False: this version has no calls that outlive their client.
    idempotent : bool
        Running an item twice does no harm.
    ship : sequence of modules
        These travel by value with the call.
    priority : int
        Calls with a higher one are served first; default 0.
    cpus : float, optional
        Cores that an item takes while it runs; default: 1 for plain functions, 0 for boxes.
    memory : int or str, optional
        Bytes that an item takes while it runs, or a text such as "2G".
    gpus : float, optional
        Devices that an item takes while it runs.
    resources : dict, optional
        Amounts of what workers were given by other names: ``{"licence": 1}``.
    cost : callable or sequence of numbers, optional
        What each item is expected to cost, in any unit: of the item's arguments, or one per item.
    copies : float, optional
        Extra work that copies of running items may add near the end, as a share of the call's work; default: 0.05 with
        `idempotent`, else none. Of plain functions only, without `reduce`.
    ranks : int, optional
        Under MPI: how many ranks run an item at once. The function gets their mpi4py communicator as the keyword
        argument `comm`; the item's value is what its rank 0 returns. `retries`, `idempotent`, `copies` and policies
        other than "auto" and "ss" are refused with it; `cpus` and other needs are those of each rank.
    """

    __slots__ = (
        "policy",
        "retries",
        "timeout",
        "progress",
        "reduce",
        "initial",
        "name",
        "detach",
        "idempotent",
        "ship",
        "priority",
        "cpus",
        "memory",
        "gpus",
        "resources",
        "cost",
        "copies",
        "ranks",
        "_wires",
    )
    policy: str
    retries: int
    timeout: float | None
    progress: bool
    reduce: Callable[[Any, Any], Any] | None
    initial: Any
    name: str | None
    detach: bool
    idempotent: bool
    ship: tuple[ModuleType, ...]
    priority: int
    cpus: float | None
    memory: int | str | None
    gpus: float | None
    resources: dict[str, float] | None
    cost: Any
    copies: float | None
    ranks: int | None
    _wires: dict[bool, dict[str, Any]]

    def __init__(self, given: dict[str, Any]) -> None:
        for option in given:
            if option not in OPTION_NAMES:
                close = nearest(option, list(OPTION_NAMES))
                raise TypeError(f"unknown option {option!r}{close or ';'} the options are {', '.join(OPTION_NAMES)}")
        self.policy = given.get("policy", "auto")
        self.retries = given.get("retries", 2)
        self.timeout = given.get("timeout")
        self.progress = bool(given.get("progress", False))
        self.reduce = given.get("reduce")
        self.initial = given.get("initial", MISSING)
        self.name = given.get("name")
        self.detach = bool(given.get("detach", False))
        self.idempotent = bool(given.get("idempotent", False))
        self.ship = _modules(given.get("ship", ()))
        self.priority = given.get("priority", 0)
        self.cpus = given.get("cpus")
        self.memory = given.get("memory")
        self.gpus = given.get("gpus")
        self.resources = given.get("resources")
        self.cost = given.get("cost")
        self.copies = given.get("copies")
        self.ranks = given.get("ranks")
        self._wires = {}
        self._check()
        if self.ranks is not None:
            self._check_with_ranks("retries" in given)
        self.timeout = _counted(self.timeout)

    def __repr__(self) -> str:
        """What differs from the defaults, as it was given."""
        given = ((name, getattr(self, name), getattr(DEFAULTS, name)) for name in OPTION_NAMES)
        told = [f"{name}={value!r}" for name, value, usual in given if repr(value) != repr(usual)]
        return f"options({', '.join(told)})"

    def _check(self) -> None:
        if not isinstance(self.policy, str) or self.policy not in POLICIES:
            close = nearest(str(self.policy), list(POLICIES))
            raise ValueError(f"policy {self.policy!r} is not known{close or ';'} the policies are {', '.join(POLICIES)}")
        if self.detach:
            raise ValueError("detach=True is not in this version: a call ends with its client; keep the client running")
        if not _is_whole(self.retries) or not 0 <= self.retries <= _MOST_RETRIES:
            raise ValueError(f"retries must be a whole number from 0 to {_MOST_RETRIES}, not {self.retries!r}")
        if not _is_whole(self.priority) or not -(1 << 31) <= self.priority < 1 << 31:
            raise ValueError(f"priority must be a whole number of 32 bits, not {self.priority!r}")
        check_timeout(self.timeout)
        if self.reduce is not None and not callable(self.reduce):
            raise TypeError(f"reduce must be a function of two values, not {self.reduce!r}")
        if self.initial is not MISSING and self.reduce is None:
            raise TypeError("initial= is the start of a fold: it needs reduce=")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {self.name!r}")
        if self.name is not None and (len(self.name) > _LONGEST_NAME or not _resources.is_text(self.name)):
            raise ValueError(f"name must be a text of at most {_LONGEST_NAME} characters, not {self.name!r:.60}")
        if self.cost is not None and not callable(self.cost):
            if not isinstance(self.cost, Sized) or isinstance(self.cost, (str, bytes, dict, set)):
                raise TypeError(f"cost must be a function of an item or a sequence of numbers, not {self.cost!r:.60}")
        self._check_copies()
        if self.ranks is not None and (not _is_whole(self.ranks) or self.ranks < 1):
            raise ValueError(f"ranks must be a whole number from 1, not {self.ranks!r}")
        self.needs(False)

    def _check_copies(self) -> None:
        copies = self.copies
        if copies is None:
            return
        if isinstance(copies, bool) or not isinstance(copies, (int, float)) or not 0 <= copies <= 1:
            raise ValueError(f"copies must be a share of the call's work, 0 to 1, not {copies!r}")
        if copies > 0 and not self.idempotent:
            raise ValueError(f"copies={copies!r} runs items twice at a time: it needs idempotent=True")
        if copies > 0 and self.reduce is not None:
            raise ValueError(f"copies={copies!r} does not go with reduce=: a fold is not run twice")

    def _check_with_ranks(self, retries_given: bool) -> None:
        """Raise if an option is set that an item on several ranks cannot have."""
        ranks = f"does not go with ranks={self.ranks}"
        if retries_given and self.retries != 0:
            raise ValueError(
                f"retries={self.retries} {ranks}: the death of a rank ends the whole MPI job, so that nothing is left "
                f"to try again; leave it out"
            )
        if self.policy not in ("auto", "ss"):
            raise ValueError(f"policy={self.policy!r} {ranks}: gangs begin one at a time, item by item; leave it out")
        if self.idempotent:
            raise ValueError(
                f"idempotent=True {ranks}: items on several ranks are neither run again nor copied; leave it "
                f"(and copies=) out"
            )

    def needs(self, functions: bool) -> _resources.Needs:
        """What one item needs, on plain function slots or on boxes."""
        cpus = self.cpus if self.cpus is not None else 1 if functions else 0
        return (
            _resources.thousandths("cpus", cpus),
            _resources.memory_bytes("memory", 0 if self.memory is None else self.memory),
            _resources.thousandths("gpus", 0 if self.gpus is None else self.gpus),
            _resources.named_amounts("resources", {} if self.resources is None else self.resources),
        )

    def wire(self, functions: bool) -> dict[str, Any]:
        """What `_core.Client` wants to know of a call, on plain function slots or on boxes."""
        known = self._wires.get(functions)
        if known is None:
            known = self._wires[functions] = {
                "policy": self.policy,
                "retries": self.retries,
                "timeout": self.timeout,
                "name": self.name or "",
                "idempotent": self.idempotent,
                "priority": self.priority,
                "needs": self.needs(functions),
                "copies_permille": self._copies_permille(functions),
            }
        return known

    def _copies_permille(self, functions: bool) -> int:
        if not functions:
            if self.copies:
                raise ValueError(f"copies={self.copies!r} is for plain functions: a box has state")
            return 0
        if self.copies is None:
            return round(_DEFAULT_COPIES * 1000) if self.idempotent and self.reduce is None else 0
        return round(self.copies * 1000)

    @property
    def has_initial(self) -> bool:
        return self.initial is not MISSING

    def refuse_ranks(self) -> None:
        """Raise if a call of boxes asks for ranks."""
        if self.ranks is not None:
            raise TypeError(
                f"ranks={self.ranks} is for plain functions: betterbox.options(ranks={self.ranks}).submit(fn, ...) "
                f"or .map(fn, items); a box lives in one process"
            )

    def refuse_for_one(self, what: str) -> None:
        """Raise if an option is set that only a call of many items can have."""
        for option in ("reduce", "cost"):
            if getattr(self, option) is not None:
                raise TypeError(f"{option}= is about the items of a spread call: {what}")

    def refuse_needs(self) -> None:
        """Raise if an item needs resources."""
        for option in ("cpus", "memory", "gpus", "resources"):
            if getattr(self, option):
                raise TypeError(
                    f"{option}={getattr(self, option)!r} is for plain functions and spread calls: "
                    f"a direct call goes to its box at once"
                )

    def folded(self, parts: list[Any]) -> Any:
        """The value of a fold call, from the folds of its ranges in item order."""
        assert self.reduce is not None
        if self.initial is not MISSING:
            parts = [self.initial, *parts]
        if not parts:
            raise TypeError("reduce of an empty spread with no initial value")
        value = parts[0]
        for part in parts[1:]:
            value = self.reduce(value, part)
        return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _modules(ship: Any) -> tuple[ModuleType, ...]:
    modules = (ship,) if isinstance(ship, ModuleType) else tuple(ship)
    for module in modules:
        if not isinstance(module, ModuleType):
            raise TypeError(f"ship= takes modules, not {module!r}")
    return modules


def check_timeout(timeout: Any) -> None:
    """Raise unless `timeout` is None or a number of seconds from 0."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds from 0, or None, not {timeout!r}")


def _counted(timeout: float | None) -> float | None:
    """As the bus counts it: whole nanoseconds, of which 0 would mean never."""
    if timeout is None or timeout > _LONGEST_TIMEOUT:
        return None
    return max(timeout, 1e-9)


def packed_costs(costs: Iterable[Any], count: int) -> bytes:
    """Costs of `count` items as native float32.

    Raises
    ------
    TypeError, ValueError
        If they are not one finite number from 0 per item.
    """
    if hasattr(costs, "tolist"):  # an array: its numbers become Python's all at once
        costs = costs.tolist()
    try:
        numbers = array("d", costs)
    except TypeError as error:
        raise TypeError(f"cost must give a number for each item ({error})") from None
    if len(numbers) != count:
        raise ValueError(f"cost has {len(numbers)} numbers for {count} items")
    for index, number in enumerate(numbers):
        if not 0 <= number <= _LARGEST_COST:
            raise ValueError(f"cost must be finite numbers from 0, but item {index} has {number!r}")
    return array("f", numbers).tobytes()


OPTION_NAMES = Options.__slots__[:-1]
DEFAULTS = Options({})
