"""The native half of BetterBox: clients, agents, slots. Private; the public names are in `betterbox`."""

from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, Generic, NoReturn, TypeVar, final

S = TypeVar("S", bound="Submission")

BoxKey = tuple[int, int, int]
"""(agent, seat, life): one served object on the bus."""

BoxRow = tuple[BoxKey, str, bool, list[tuple[str, int]], str, int]
"""(key, class name, sandbox, [(method, flags)], host, pid). Flags: 1 concurrent, 2 async."""

version: str

# --- the bus ------------------------------------------------------------------------------------

def read_bus_file(path: str) -> dict[str, Any] | None:
    """The bus file's fields (see runtime/bus_file.h), or None if there is no file. Raises BusError."""

def socket_folder(bus_file: str) -> str:
    """Where the sockets of the bus of this file go on this host; the folder need not be there."""

def runtime_folder() -> str:
    """Where this user's sockets and private buses lie on this host, made if it is not there. Raises BusError."""

def make_own_folder(path: str) -> None:
    """Make a folder and its parents with mode 0700 unless they are there.

    Raises BusError unless it is this user's and nobody else's to write, OSError if it cannot be made.
    """

def check_own_folder(path: str, closed: bool = False) -> None:
    """Raise BusError unless a folder is this user's, and nobody else's to write (`closed`: nor to read)."""

def open_own_file(path: str, flags: int) -> int:
    """A descriptor of a file that must be this user's, no link, and nobody else's to write. Raises BusError, OSError."""

def interfaces() -> list[tuple[str, str]]:
    """(name, address) of this host's interfaces that others can use; IPv6 addresses in brackets."""

def advertised_address(interface: str, peer: str) -> str:
    """The address that other hosts are told. Raises BusError."""

def network_answers(endpoint: str, timeout: float) -> bool:
    """True if a connection to ``tcp://address:port`` is accepted in time."""

def find_or_start_bus(
    bus_file: str, scheduler_argv: Sequence[str], log_file: str, timeout: float
) -> dict[str, Any]:
    """The bus behind a bus file; started if nobody answers and `scheduler_argv` is given. Raises BusError."""

def environment() -> dict[bytes, bytes]:
    """What child processes inherit now; the same dict while nothing has changed: not to be changed."""

def set_environment(wanted: dict[bytes, bytes]) -> None:
    """Make the C library's environment so. What `os.environ` keeps is the caller's affair."""

def daemon_cpus() -> int:
    """CPUs that a daemon may use which this process starts."""

def start_daemon(argv: Sequence[str], log_file: str, timeout: float, meanwhile: Callable[[], object]) -> str:
    """Start a detached process; returns the line it wrote to its --ready-fd. Raises BusError."""

# --- items --------------------------------------------------------------------------------------

SHARED_MIN_BYTES: int
"""Buffers from this size on are worth a place in shared memory."""

@final
class SharedBuffers:
    """Buffers copied into shared memory; freed with the last holder."""

    @property
    def refs(self) -> list[tuple[str, int, int, int]]:
        """Arguments of `map_shared`, one tuple per buffer."""

@final
class MappedBuffer:
    """A private, writable mapping (buffer protocol)."""

def segment_prefix() -> str:
    """What the names of this process's files in shared memory begin with."""

def store_id() -> str:
    """Which shared memory this process uses; empty if it has none."""

def share(buffers: Sequence[memoryview]) -> SharedBuffers | None:
    """Copy buffers into shared memory; None if there is no room."""

def map_shared(name: str, serial: int, offset: int, size: int) -> MappedBuffer | None:
    """A private, writable mapping of a shared buffer; None if it is not there."""

@final
class Pages:
    """Items encoded one by one, as they are now. Not thread-safe."""

    def __init__(self) -> None: ...
    def append(self, item: object) -> None:
        """Encode one item. Raises SerializationError."""
    def extend(self, items: Iterable[object], path: str = "items", most: int = ..., first: int = 0) -> None:
        """Encode many, until they have `most` bytes; `path` names them in errors: ``args[0][17]``."""
    def extend_range(self, start: int, step: int, count: int) -> None:
        """Integers, as a description."""
    def extend_array(self, array: object) -> bool:
        """The items of a NumPy array, as bytes. False (and nothing added): encode them one by one."""
    def set_costs(self, costs: bytes) -> None:
        """What all items so far are expected to cost: native float32, one each."""
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Arguments:
    """Encoded arguments of a direct call."""

    @property
    def broadcast(self) -> bool:
        """Large buffers of them lie in shared memory, for `Client.broadcast`."""

def encode_arguments(
    args: tuple[object, ...], kwargs: dict[str, object], near: bool = False, broadcast: bool = False
) -> Arguments:
    """Arguments of a direct call. Raises SerializationError naming the path (``args[0].model``).

    `near`: it goes to boxes that share their memory with this process. `broadcast`: large buffers are broadcast.
    """

# --- clients ------------------------------------------------------------------------------------

ALL: int
"""`Call.wait`: until every item has an outcome (and no more can come)."""
ANY: int
"""`Call.wait`: until one item succeeded, or all have an outcome."""
LANDED: int
"""`Call.wait` for ``LANDED - n``: until more than `n` groups of items have arrived, or all have an outcome."""

@final
class Call:
    """One call and its outcomes: thread-safe. Dropping the last reference forgets (cancels) it, unless
    `keep()` was called."""

    @property
    def token(self) -> int:
        """Unique in this process; what `Client.drive` returns."""
    @property
    def port(self) -> int: ...
    @property
    def method(self) -> str: ...
    @property
    def for_functions(self) -> bool:
        """It runs on slots for plain functions, not on boxes."""
    @property
    def total(self) -> int | None:
        """Items, None while more may come."""
    @property
    def known(self) -> int:
        """Items sent so far."""
    @property
    def settled(self) -> int:
        """Items that have an outcome."""
    def feed(self, pages: Pages, closed: bool = False) -> None:
        """Append items of a generator call (the pages object is empty afterwards)."""
    def fail_feed(self, error: BaseException) -> None:
        """The generator raised: no more items; when those known have settled, waits raise `error`."""
    def feed_room(self, timeout: float) -> int:
        """Wait until items may be fed (window, bytes); returns how many, 0 after the timeout or when the call is over."""
    def free_running(self, on: bool) -> None:
        """`all()` waits: the window of a generator call is lifted. Counts up (True) and down (False)."""
    def answer(self, timeout: float) -> tuple[bool, Any] | None:
        """`wait` for item 0, then `get` it; None if it is not there in time."""
    def wait(self, until: int, timeout: float | None) -> bool:
        """Wait for item number `until` (>= 0), or ALL, ANY, LANDED. False after the timeout.
        Runs signal handlers (KeyboardInterrupt); the GIL is released."""
    def done(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def cancel(self) -> bool:
        """Ask to drop what is unsettled; those get CallCancelledError at once (of a generator call also one item for
        all that was not fed). False if all was settled."""
    def get(self, index: int) -> tuple[bool, Any]:
        """(True, value) or (False, exception) of a settled item. IndexError: it has no outcome, or it is gone."""
    def take(self, index: int) -> tuple[bool, Any]:
        """`get`, and its memory goes (a generator call's window moves on). IndexError, too, if somebody took it."""
    def withdraw(self) -> None:
        """Ask to cancel what has not begun; what runs is left alone."""
    def keeps_all(self) -> bool:
        """All that was taken of a generator call is still there, for `get` and `values` without `take`."""
    def values(self, first: int, limit: int, take: bool) -> list[Any]:
        """Values of items from `first` on, up to the first that is not there or failed; taken if `take`."""
    def results(self) -> list[Any]:
        """All values in order; raises the error of the lowest index. REQUIRES: done()."""
    def outcomes(self) -> list[Any]:
        """All values in order, exceptions in their places. REQUIRES: done()."""
    def folds(self) -> list[Any]:
        """Values of a fold call's parts in item order; raises the error of the lowest index. REQUIRES: done()."""
    def landed(
        self, arrivals: int, items: int, limit: int, take: bool
    ) -> tuple[list[tuple[int, Any]], int, int, int | None]:
        """What has arrived from a place on, in order of arrival: ``(index, value)`` of at most `limit` items, the place
        behind them (groups of items before, items of the group before), and the item that comes next if it has failed
        and no other came before it (the place is behind it). Those with values are taken if `take`."""
    def first_success(self) -> int | None:
        """The first item, in order of arrival, that succeeded."""
    def notify(self) -> None:
        """Make `Client.drive` return this call's token once it is done (at once if it is)."""
    @property
    def landing_token(self) -> int:
        """Another number of this call's, see `notify_landing`."""
    def notify_landing(self, arrivals: int) -> None:
        """Make `Client.drive` return the landing token once: at once if more than `arrivals` groups of items have arrived
        or the call is over, else when the next one arrives."""
    def keep(self) -> None: ...
    def explain(self, timeout: float) -> dict[str, Any]:
        """Fields of CallStats (runtime/messages.h) as plain dicts; times `x_ns` are `x_s`, seconds as floats."""

class Submission:
    """A single submission: what `Call` has, of one item."""

    @property
    def token(self) -> int: ...
    @property
    def method(self) -> str: ...
    def value(self, missing: object, /) -> Any:
        """The value if it is there now, else `missing` (also if it failed)."""
    def get(self, index: int, /) -> tuple[bool, Any]: ...
    def wait(self, until: int, timeout: float | None, /) -> bool: ...
    def done(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def cancel(self) -> bool: ...
    def notify(self) -> None: ...
    def explain(self, timeout: float, /) -> dict[str, Any]: ...

class Submitter(Generic[S]):
    """Submits calls of one function as it was when its context was made."""

    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> S | None:
        """None if something watched has changed, or an argument needs another way. Never waits."""
    def submit_now(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> S: ...
    def watch(self, functions: list[FunctionType], names: list[tuple[Any, ...]], seconds: float, /) -> None:
        """What must stay the same for `submit`, besides `sys.path`, the working folder and the bus, and for how long."""

def make_submitter(
    client: Client,
    type: type[S],
    method: str,
    context: bytes,
    *,
    retries: int = 2,
    idempotent: bool = False,
    timeout: float | None = None,
    name: str = "",
    policy: str = "",
    priority: int = 0,
    needs: Needs = ...,
    copies_permille: int = 0,
    values: Sequence[tuple[str, int, int, str]] = (),
) -> Submitter[S]:
    """`type` is a subclass of `Submission`: what is made per submission."""

def begun(client: Client, submissions: list[Any], withdraw: bool, timeout: float) -> list[bool]:
    """Which of these `Submission`s have begun; False also for those that have an outcome, and if nobody answers in time.
    `withdraw`: those that have not are cancelled."""

Needs = tuple[int, int, int, list[tuple[str, int]]]
"""(cpus, memory, gpus, [(name, amount)]): bytes of memory, thousandths of the others, ascending names."""

def mpi_library(shim: str) -> str:
    """What the MPI of a shim (cluster/mpi_shim.h) says about itself; MPI is not started."""

def start_rank(shim: str) -> tuple[int, int, str]:
    """Start MPI, once per process: (rank, size, endpoint of the scheduler). It ends when Python does."""

def rank_ends_with(code: int) -> None:
    """The exit code that this rank will have: that of the job, if MPI does not end in time. 1 until it is told."""

def end_rank(code: int) -> NoReturn:
    """End this rank now, whatever still runs in it."""

def abort_job(code: int) -> NoReturn:
    """End all ranks now, without waiting for any."""

@final
class Client:
    """This process's connection to a bus. Thread-safe. Dead in a forked child (BusError)."""

    def __init__(
        self,
        endpoint: str,
        name: str,
        background: bool = False,
        find_bus: Callable[[], str] | None = None,
        bus_file: str = "",
    ) -> None:
        """Connect and greet; raises BusError when nobody answers within the liveness bound.

        `find_bus` is called (on the thread of `drive`) when the scheduler was lost: the endpoint of its
        successor, or an exception. Calls that were under way are then sent again. Without it a lost bus stays lost.
        """
    @property
    def peer(self) -> int: ...
    @property
    def lanes(self) -> int:
        """Boxes whose calls go through shared memory now."""
    def connected(self) -> bool: ...
    def ended(self) -> bool:
        """True once the bus was lost for good, or the client was closed."""
    def wait_connected(self, timeout: float | None) -> bool:
        """While the successor of a lost scheduler is looked for, wait for it; True if connected."""
    def expendable(self) -> bool:
        """True once the bus was lost for good; while it is lost, true if nothing is under way."""
    def drive(self) -> list[int]:
        """The background thread's body: carries messages while nobody waits; returns tokens of calls
        that asked for `notify` and are done, one batch at a time; an empty list once closed, after those of the
        calls that closing has ended."""
    def close(self) -> None:
        """Say Bye and disconnect: idempotent, bounded. `drive` returns."""
    def watch(self, port: int) -> None: ...
    def unwatch(self, port: int) -> None: ...
    def boxes(self, port: int) -> list[BoxRow]:
        """Boxes at a watched port that have answered, in join order, as known now."""
    def wait_boxes(self, port: int, count: int, timeout: float) -> list[BoxRow]:
        """Wait until `count` boxes at a watched port have answered; after the timeout, those that have."""
    def first_box(self, port: int, timeout: float) -> BoxRow | None:
        """The first box at a watched port to respond to a greeting made now."""
    def near(self, boxes: Sequence[BoxKey]) -> bool:
        """True if all of these boxes share their memory with this process."""
    @property
    def can_broadcast(self) -> bool:
        """Large arguments can be broadcast to the boxes that need them."""
    def broadcast(self, boxes: Sequence[BoxKey], arguments: Arguments) -> None:
        """The hosts of these boxes are to have the large buffers of the arguments, until `end_broadcast`."""
    def end_broadcast(self, arguments: Arguments) -> None:
        """The call is over."""
    def box_call(
        self, boxes: Sequence[BoxKey], method: str, arguments: Arguments, timeout: float | None = None
    ) -> Call:
        """A direct call: item i is the response of boxes[i]; after `timeout` seconds CallTimeoutError takes its place."""
    def open_call(
        self,
        port: int,
        method: str,
        context: bytes,
        pages: Pages,
        closed: bool,
        shared: SharedBuffers | None,
        *,
        retries: int = 2,
        idempotent: bool = False,
        fold: bool = False,
        window: bool = False,
        values: Sequence[tuple[str, int, int, str]] = (),
        timeout: float | None = None,
        name: str = "",
        policy: str = "",
        priority: int = 0,
        needs: Needs = ...,
        copies_permille: int = 0,
    ) -> Call:
        """A spread call (port > 0) or a call on plain function slots (port 0). `window`: a generator call."""
    def deploy(self, port: int, slots: int, name: str, payload: bytes, timeout: float) -> int:
        """Returns the deployment's serial. Raises BusError, or what the box raised."""
    def undeploy(self, serial: int) -> None: ...
    def hold(self, name: str, serial: int, bytes: int, store: str, label: str, replicas: int) -> None:
        """This process has a reference to a value: the first `bytes` of the file."""
    def drop(self, name: str) -> None:
        """One `hold` less."""
    def obtain(
        self, name: str, serial: int, bytes: int, store: str, timeout: float | None
    ) -> tuple[bool, bool, str, object]:
        """Get a value that was put in another `store` into this one: (here, busy, error, what holds it)."""
    def status(self, timeout: float) -> dict[str, Any]:
        """Fields of StatusReport (runtime/messages.h) as plain dicts and lists."""

# --- serving in this process ----------------------------------------------------------------------

@final
class Seat:
    @property
    def number(self) -> int: ...
    @property
    def for_functions(self) -> bool: ...
    def run(self, of_script: bool = True) -> None:
        """Run the slot on this thread until it is stopped; `of_script`: the box is an object of this script."""

@final
class Agent:
    """The agent of a script that serves boxes (worker/agent.h). Thread-safe."""

    def __init__(
        self,
        endpoint: str,
        socket_folder: str,
        name: str,
        background: bool = False,
        bus_file: str = "",
        interface: str = "",
        function_slots: int = 0,
    ) -> None:
        """`bus_file`: the bus's keys, and where to look for a scheduler's successor. `interface`: as BETTERBOX_INTERFACE.

        `function_slots` 1: a worker whose slot is a thread of this process (`next_seat`). Raises BusError.
        """
    def next_seat(self) -> Seat | None:
        """Workers: the next seat that needs a thread to run it; None once the agent has ended."""
    def open_seat(self, port: int, payload: bytes) -> Seat: ...
    def wait_offered(self, seat: Seat, timeout: float) -> bool: ...
    def close_seat(self, seat: Seat, timeout: float) -> tuple[bool, Any] | None:
        """None, or (False, exception) if saving failed."""
    def stop(self) -> None: ...
    def connected(self) -> bool: ...

# --- inside a slot process ------------------------------------------------------------------------

def template_main(control_fd: int, bell_fd: int, socket: str) -> bool:
    """The template's loop (worker/template_loop.h): forks a slot for each request.

    True in the template, once its worker is gone and that one's `socket` removed; False in each slot once it has ended.
    """
