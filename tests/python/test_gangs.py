"""Calls whose items run on several ranks of an MPI job at once, with the real mpirun; and what they say without MPI."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import random
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import betterbox
import pytest
from betterbox import _gangs
from betterbox._options import Options
from helpers import Scripts
from mpi_jobs import is_open_mpi, mpirun, needs_mpi


def with_mpi(test):  # type: ignore[no-untyped-def]
    there = importlib.util.find_spec("mpi4py") is not None and is_open_mpi()
    fits = pytest.mark.skipif(not there, reason="no mpi4py for this MPI: install openmpi-bin and python3-mpi4py")
    return needs_mpi(fits(test))


def test_without_an_mpi_job_ranks_are_refused_with_advice() -> None:
    def total(x: int, *, comm: object) -> int:
        return x

    for call in (lambda f: f.submit(total, 1), lambda f: f.map(total, [1])):
        with pytest.raises(betterbox.BetterBoxError, match=r"mpirun -n 5 betterbox mpi script\.py"):
            call(betterbox.options(ranks=4))


@pytest.mark.parametrize("ranks", [0, -1, 1.5, True, "2"])
def test_ranks_must_be_a_whole_number_from_1(ranks: object) -> None:
    with pytest.raises(ValueError, match="ranks must be a whole number from 1"):
        betterbox.options(ranks=ranks)


REFUSED_WITH_RANKS = [
    ({"retries": 1}, r"retries=1 does not go with ranks=2: the death of a rank ends the whole MPI job"),
    ({"retries": 2}, r"retries=2 does not go with ranks=2"),
    ({"policy": "gss"}, r"policy='gss' does not go with ranks=2"),
    ({"policy": "static"}, r"policy='static' does not go with ranks=2"),
    ({"idempotent": True}, r"idempotent=True does not go with ranks=2"),
    ({"idempotent": True, "copies": 0.5}, r"idempotent=True does not go with ranks=2: .*copies="),
    ({"copies": 0.5}, r"copies=0.5 .* needs idempotent=True"),
    ({"detach": True}, r"detach=True"),
]
GO_WITH_RANKS: list[dict[str, object]] = [
    {"retries": 0},
    {"policy": "ss"},
    {"idempotent": False, "copies": 0, "detach": False},
    {"timeout": 60},
    {"progress": True},
    {"reduce": max},
    {"reduce": max, "initial": 0},
    {"name": "a name"},
    {"ship": betterbox},
    {"priority": 3},
    {"cpus": 1},
    {"memory": 1000},
    {"gpus": 0},
    {"resources": {}},
    {"cost": abs},
]


@pytest.mark.parametrize(("given", "words"), REFUSED_WITH_RANKS)
def test_an_option_that_ranks_cannot_have_is_refused_by_name(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        betterbox.options(ranks=2, **given)


@pytest.mark.parametrize("given", GO_WITH_RANKS)
def test_every_other_option_goes_with_ranks(given: dict[str, object]) -> None:
    betterbox.options(ranks=2, **given)


def test_each_option_is_known_to_go_with_ranks_or_not() -> None:
    tried = {name for given in [*(row[0] for row in REFUSED_WITH_RANKS), *GO_WITH_RANKS] for name in given}
    assert tried | {"ranks", "_wires"} == set(Options.__slots__)


class NeverDone:
    """The call of members none of which has ended."""

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        pass


def test_an_item_whose_call_is_over_leaves_the_queue_of_gangs(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = _gangs.Desk(3)
    promise = NeverDone()
    call = desk.know_call(promise)

    def start(*_: object) -> NeverDone:
        monkeypatch.setattr(promise, "done", lambda: True)  # cancelled while its members are on their way
        return NeverDone()

    monkeypatch.setattr(_gangs, "_start_members", start)
    for _ in range(2):  # while it waits for ranks, and before it has any
        with pytest.raises(betterbox.CallCancelledError, match="the call was over"):
            desk.run(Options({"ranks": 3}), call, monotonic() + 20, b"", ())
    monkeypatch.undo()
    nobody_holds_it = desk.know_call(NeverDone())
    with pytest.raises(betterbox.CallTimeoutError):
        desk.run(Options({"ranks": 3}), nobody_holds_it, monotonic(), b"", ())


class Come:
    """The future of a member that has come."""

    def done(self) -> bool:
        return False

    def set_result(self, members: list[int]) -> None:
        self.members = members


def test_a_gang_whose_last_rank_comes_as_its_call_ends_has_begun_and_loses_no_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = _gangs.Desk(2)
    promise = NeverDone()
    call = desk.know_call(promise)

    def come(timeout: float | None = None) -> bool:
        monkeypatch.setattr(promise, "done", lambda: True)
        for rank in (2, 1):
            desk.enlist(number, rank, Come())
        for rank in (1, 2):
            desk.report(number, rank, None, f"of rank {rank}")
        return True

    monkeypatch.setattr(_gangs, "_start_members", lambda *_: NeverDone())
    monkeypatch.setattr(desk._changed, "wait", come)
    number = call + 1
    assert desk.run(Options({"ranks": 2}), call, monotonic() + 20, b"", ()) == "of rank 1"
    assert desk.lost == set()


def test_a_gang_that_assembles_fails_once_ranks_that_it_needs_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = _gangs.Desk(3)

    def start(*_: object) -> NeverDone:
        desk.lost = {2}  # checked before, lost while this one waits
        return NeverDone()

    monkeypatch.setattr(_gangs, "_start_members", start)
    promise = NeverDone()
    call = desk.know_call(promise)
    with pytest.raises(betterbox.ResourceError, match=r"ranks=3, but this job has 2 .*ranks \[2\] are stuck"):
        desk.run(Options({"ranks": 3}), call, monotonic() + 10, b"", ())
    with pytest.raises(betterbox.CallTimeoutError):  # two are left, and the queue is free
        desk.run(Options({"ranks": 2}), call, monotonic(), b"", ())


class MadeUpRanks:
    """Ranks that take members, enlist, work and fail as drawn from a seed; one event at a time, while desks wait."""

    def __init__(self, desk: _gangs.Desk, seed: int) -> None:
        self.desk = desk
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.idle = set(range(1, desk.ranks + 1))
        self.queue: list[tuple[_gangs.Gang, MadeUpMembers]] = []
        self.here: list[tuple[int, MadeUpMembers]] = []  # come, not enlisted yet
        self.working: list[tuple[int, _gangs.Gang]] = []
        self.calls: list[NeverDone] = []

    def start(self, gang: _gangs.Gang, *_: object) -> MadeUpMembers:
        members = MadeUpMembers(self, gang)
        with self.lock:
            self.queue += [(gang, members)] * gang.size
        return members

    def step(self) -> None:
        draw = self.random.random()
        assembling = [gang for gang in list(self.desk._gangs.values()) if not (gang.full or gang.over or gang.error)]
        assert len(assembling) <= 1
        if draw < 0.4 and self.queue and self.idle:
            with self.lock:
                members = self.queue.pop(0)[1] if self.queue else None
            if members is not None:
                self.here.append((self.idle.pop(), members))
        elif draw < 0.7 and self.here:
            rank, members = self.here.pop(self.random.randrange(len(self.here)))
            if self.random.random() < 0.05:  # half of the calls may be cancelled
                self.random.choice(self.calls[:10]).done = lambda: True  # type: ignore[method-assign]
            self.desk.enlist(members.gang.number, rank, MadeUpFuture(self, rank, members))
        elif self.working:
            rank, gang = self.working.pop(self.random.randrange(len(self.working)))
            error = None if self.random.random() < 0.95 else ("ValueError", "on purpose", "", b"")
            self.desk.report(gang.number, rank, error, rank)
            self.idle.add(rank)


class MadeUpMembers(NeverDone):
    """The call of a gang's members."""

    def __init__(self, ranks: MadeUpRanks, gang: _gangs.Gang) -> None:
        self.ranks = ranks
        self.gang = gang

    def cancel(self) -> None:
        with self.ranks.lock:
            self.ranks.queue = [entry for entry in self.ranks.queue if entry[1] is not self]


class MadeUpFuture(Come):
    """What a member waits for: it works then, or goes."""

    def __init__(self, ranks: MadeUpRanks, rank: int, members: MadeUpMembers) -> None:
        self.ranks = ranks
        self.rank = rank
        self.gang = members.gang

    def get_loop(self) -> MadeUpFuture:
        return self

    def call_soon_threadsafe(self, settle: Callable[..., None], *args: Any) -> None:
        settle(*args)

    def set_result(self, members: list[int] | None) -> None:
        if members is None:
            self.ranks.idle.add(self.rank)
        else:
            assert len(set(members)) == self.gang.size
            self.ranks.working.append((self.rank, self.gang))


@pytest.mark.parametrize("seed", range(4))
def test_gangs_among_random_events_end_lose_no_rank_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    desk = _gangs.Desk(7)
    ranks = MadeUpRanks(desk, seed)
    monkeypatch.setattr(_gangs, "_start_members", ranks.start)
    monkeypatch.setattr(_gangs, "_LOOK", 0.002)
    ranks.calls = [NeverDone() for _ in range(20)]
    numbers = [desk.know_call(promise) for promise in ranks.calls]

    def run(item: int) -> Any:
        size = 1 + item % 7
        try:
            return desk.run(Options({"ranks": size}), numbers[item % 20], monotonic() + 60, b"", ())
        except betterbox.BetterBoxError as error:  # of a rank, or cancelled
            return error

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        items = [pool.submit(run, item) for item in range(100)]
        deadline = monotonic() + 20
        try:
            while not all(item.done() for item in items):
                assert monotonic() < deadline
                ranks.step()
        finally:
            desk.end()  # who still waits need not
    outcomes = [item.result() for item in items]
    assert all(isinstance(outcome, (int, betterbox.RemoteError)) for i, outcome in enumerate(outcomes) if i % 20 >= 10)
    assert desk._queue == [] and desk._gangs == {} and desk.lost == set()
    while ranks.here or ranks.working:
        ranks.step()
    assert ranks.queue == [] and len(ranks.idle) == 7


@with_mpi
def test_gangs_of_every_size_run_among_single_items(scripts: Scripts) -> None:
    job = mpirun(
        scripts,
        8,
        "gangs.py",
        """
        import os
        import betterbox
        from betterbox import Box, RemoteBox, serve

        def total(x, y=0, *, comm):
            from mpi4py import MPI
            assert MPI.Comm.Compare(comm, MPI.COMM_WORLD) != MPI.IDENT
            return x + y, comm.allreduce(1), len(set(comm.allgather(os.getpid()))), comm.Get_rank()

        def single(x):
            return x

        several = {k: betterbox.options(ranks=k).map(total, range(12)) for k in (1, 2, 3, 5, 7)}
        singles = betterbox.map(single, range(2000))
        whole = betterbox.options(ranks=7).submit(total, 4, y=5)
        assert whole.result(60) == (9, 7, 7, 0)
        for k, promise in several.items():
            assert promise.result(60) == [(x, k, k, 0) for x in range(12)], k
        assert singles.result(60) == list(range(2000))
        two = betterbox.options(ranks=2)
        assert two.map(total, (x for x in range(3)), [7, 8, 9]).result(60)[2] == (11, 2, 2, 0)
        both = betterbox.options(ranks=2, reduce=lambda a, b: (a[0] + b[0],), initial=(100,))
        assert both.map(total, range(4)).result(60) == (106,)

        def refused(kind, words, start):
            try:
                start()
            except kind as error:
                assert words in str(error), error
            else:
                raise AssertionError(words)

        refused(betterbox.ResourceError, "mpirun -n 9", lambda: betterbox.options(ranks=8).submit(total, 1))
        later = betterbox.submit(single, 1)
        refused(TypeError, "pass promise.result()", lambda: two.submit(total, later))
        refused(TypeError, "pass promise.result()", lambda: two.submit(total, 1, y=later))
        refused(TypeError, "keyword argument comm", lambda: two.submit(single, 1))

        def nested(x):
            return betterbox.options(ranks=2).submit(total, x).result(20)

        refused(betterbox.BetterBoxError, "only the script", lambda: betterbox.submit(nested, 1).result(20))

        class One(Box):
            def f(self):
                return 1

        with serve(One, 8090):
            refused(TypeError, "plain functions", lambda: RemoteBox.connect(8090).f.options(ranks=2)())

        def together(x, *, comm):
            raise LookupError(f"all of {comm.Get_size()}")

        refused(LookupError, "all of 3", lambda: betterbox.options(ranks=3).submit(together, 1).result(20))
        assert betterbox.options(ranks=7).submit(total, 1).result(20)[1] == 7
        print("gangs are fine")
        """,
    )
    assert job.wait(120) == 0, job.output
    assert "gangs are fine" in job.output


@with_mpi
@pytest.mark.parametrize("code", [0, 5])
def test_ranks_stuck_in_a_collective_are_given_up_and_the_job_ends_with_the_scripts_code(
    scripts: Scripts, code: int
) -> None:
    job = mpirun(
        scripts,
        4,
        "stuck.py",
        f"""
        import sys
        import betterbox
        from betterbox import _gangs

        _gangs.GRACE = 0.5

        def bad(*, comm):
            if comm.Get_rank() == 0:
                raise ValueError("on purpose")
            comm.Barrier()

        def size(*, comm):
            return comm.allreduce(1)

        try:
            betterbox.options(ranks=2).submit(bad).result(60)
            raise AssertionError("no error")
        except ValueError as error:
            assert "on rank " in str(error.__cause__), error.__cause__
        assert betterbox.options(ranks=2).submit(size).result(60) == 2
        assert betterbox.map(abs, range(100)).result(60) == list(range(100))
        try:
            betterbox.options(ranks=3).submit(size)
            raise AssertionError("no error")
        except betterbox.ResourceError as error:
            assert "stuck" in str(error)
        print("the others go on")
        sys.exit({code})
        """,
    )
    assert job.wait(60) == code, job.output
    assert "the others go on" in job.output


@with_mpi
def test_a_gang_that_waits_ends_by_its_timeout_or_a_cancel_and_holds_nobody(scripts: Scripts) -> None:
    job = mpirun(
        scripts,
        3,
        "waits.py",
        """
        import os, sys, time
        import betterbox
        from betterbox import _gangs

        gate = sys.argv[1]

        def hold(path):
            open(path + ".held", "w").close()
            while not os.path.exists(path):
                time.sleep(0.01)

        def size(x, *, comm):
            return comm.allreduce(1)

        held = betterbox.submit(hold, gate)
        while not os.path.exists(gate + ".held"):
            time.sleep(0.01)
        late = betterbox.options(ranks=2, timeout=0.5).submit(size, 1)
        try:
            late.result(30)
            raise AssertionError("no error")
        except betterbox.CallTimeoutError:
            pass
        waits = betterbox.options(ranks=2).map(size, range(50))
        while len(_gangs._desk._queue) < 2:  # as many as attendants
            time.sleep(0.01)
        waits.cancel()
        assert betterbox.options(ranks=1).submit(size, 1).result(20) == 1  # on the rank that is free
        open(gate, "w").close()
        held.result(30)
        assert betterbox.options(ranks=2).submit(size, 1).result(30) == 2
        print("nobody is held")
        """,
        str(scripts.write("gate", "").with_name("the-gate")),
    )
    assert job.wait(60) == 0, job.output
    assert "nobody is held" in job.output


@with_mpi
def test_explain_tells_the_ranks_of_gangs_and_for_which_others_wait(scripts: Scripts) -> None:
    job = mpirun(
        scripts,
        4,
        "explained.py",
        """
        import os, sys, time
        import betterbox

        gate = sys.argv[1]

        def hold(*, comm):
            while not os.path.exists(gate):
                time.sleep(0.005)

        def until(condition):
            deadline = time.monotonic() + 30
            while not condition():
                assert time.monotonic() < deadline, (held.explain(), other.explain())
                time.sleep(0.005)

        held = betterbox.options(ranks=3).submit(hold)
        until(lambda: held.explain().gangs == [{"size": 3, "ranks": [1, 2, 3]}])
        assert "gang of 3 on ranks: 1, 2, 3" in str(held.explain())
        other = betterbox.options(ranks=2).submit(hold)
        until(lambda: other.explain().gangs == [{"size": 2, "ranks": []}])
        assert other.explain().waiting == "gangs assemble one by one; the one that does has 0 of 2 ranks"
        assert "gang of 2 on ranks: none yet" in str(other.explain())
        last = betterbox.options(ranks=1).submit(hold)
        until(lambda: "of another call, has 0 of 2 ranks" in last.explain().waiting)
        assert held.explain().waiting == ""
        open(gate, "w").close()
        assert held.result(30) is None and other.result(30) is None and last.result(30) is None
        assert held.explain().gangs == []
        print("explained")
        """,
        str(scripts.write("gate", "").with_name("the-gate")),
    )
    assert job.wait(60) == 0, job.output
    assert "explained" in job.output


@with_mpi
def test_gangs_run_at_once_on_ranks_of_their_own_and_a_map_of_them_uses_all_and_keeps_its_order(
    scripts: Scripts,
) -> None:
    job = mpirun(
        scripts,
        5,
        "spread.py",
        """
        import os, sys, time
        import betterbox

        gate = sys.argv[1]

        def item(i, *, comm):
            from mpi4py import MPI
            if i < 2:  # ends only if the other one runs meanwhile
                if comm.Get_rank() == 0:
                    open(f"{gate}.{i}", "w").close()
                deadline = time.monotonic() + 30
                while not os.path.exists(f"{gate}.{1 - i}"):
                    assert time.monotonic() < deadline, "the other gang did not begin"
                    time.sleep(0.005)
            return i, comm.allgather(MPI.COMM_WORLD.Get_rank())

        values = betterbox.options(ranks=2).map(item, range(100)).result(60)
        assert [i for i, _ in values] == list(range(100))
        assert all(len(set(ranks)) == 2 for _, ranks in values)
        assert not set(values[0][1]) & set(values[1][1]), values[:2]
        assert {rank for _, ranks in values for rank in ranks} == {1, 2, 3, 4}  # rank 0 runs the script
        print("all ranks were used")
        """,
        str(scripts.write("gate", "").with_name("the-gate")),
    )
    assert job.wait(60) == 0, job.output
    assert "all ranks were used" in job.output
