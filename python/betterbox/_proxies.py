"""Proxies of a `multiprocessing.Manager` among what travels: they work in other processes of this host.

A proxy speaks to its manager with the manager's key, which `multiprocessing` gives to child processes only. The key stays
on its host: it lies in shared memory that only this user may read, and the pickle of a proxy says where.
"""

from __future__ import annotations

import os
from multiprocessing import managers, process
from typing import Any, cast

from betterbox import _bus, _core
from betterbox._errors import BetterBoxError
from betterbox._labels import host_name

_Place = tuple[str, str, int, int, int]  # the shared memory, and where in it

_known: dict[bytes, tuple[Any, _Place]] = {}
"""Where keys lie that this process has, with what keeps them there."""


def reduce_proxy(proxy: Any, reduced: Any) -> Any:
    """A reducer for pickles, made of what the proxy's own gave."""
    key = bytes(proxy._authkey)
    place = _place_of(key)
    if place is None:
        raise BetterBoxError(
            "a proxy of a multiprocessing.Manager cannot travel without shared memory, in which its key is handed over; "
            "make room in /dev/shm, or serve an object of your own (betterbox.serve)"
        )
    func, token, serializer, facts = reduced[1]
    facts = {name: value for name, value in facts.items() if name != "authkey"}
    is_of_process = key == bytes(process.current_process().authkey)
    return _rebuilt, (func, token, serializer, facts, place, host_name(), is_of_process)


def _place_of(key: bytes) -> _Place | None:
    if key not in _known:
        shared = _core.share([memoryview(key)])
        if shared is None:
            return None
        _known[key] = shared, (_core.store_id(), *shared.refs[0])
    return _known[key][1]


def _rebuilt(
    func: Any, token: Any, serializer: str, facts: dict[str, Any], place: _Place, host: str, is_of_process: bool
) -> Any:
    mapped = _core.map_shared(*place[1:]) if place[0] == _core.store_id() else None
    if mapped is None:
        raise BetterBoxError(
            f"a proxy of a multiprocessing.Manager works on the host of its client only ({host}), and this is "
            f"{host_name()}; use a box instead: betterbox.serve(object, port) there, RemoteBox.connect(port) here"
        )
    key = bytes(cast(Any, mapped))
    _known.setdefault(key, (mapped, place))
    if is_of_process and _bus.background:  # a slot works for one client: what it gets through proxies are proxies, too
        process.current_process().authkey = key
    return managers.RebuildProxy(func, token, serializer, {**facts, "authkey": key})  # type: ignore[attr-defined]
