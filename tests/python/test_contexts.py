"""Calls whose contexts are equal, or nearly: each gets its own values, also where the worker is not sent them again."""

from __future__ import annotations

from functools import partial

import betterbox

TABLE = {n: str(n) for n in range(5000)}  # a context of some 60 kB


def take(table, fresh, x):
    """What a call finds, and leaves behind in its slot."""
    found = len(table), list(fresh)
    table[-x] = x
    fresh.append(x)
    return found


def test_a_call_sees_nothing_that_an_earlier_one_did_to_equal_arguments(cluster):
    fixed = partial(take, TABLE, [])
    for _ in range(5):
        (found,) = betterbox.map(fixed, [7]).result()
        assert found == (5000, [])


def test_a_changed_argument_is_seen_by_the_next_call(cluster):
    table = dict(TABLE)
    for size in range(5000, 5005):
        assert betterbox.map(partial(take, table, []), [1]).result() == [(size, [])]
        table[str(size)] = "more"


def test_more_contexts_than_a_worker_keeps_come_round_again(cluster):
    for _ in range(2):
        promises = [betterbox.map(partial(take, TABLE, [n]), [1]) for n in range(80)]
        assert [promise.result() for promise in promises] == [[(5000, [n])] for n in range(80)]
