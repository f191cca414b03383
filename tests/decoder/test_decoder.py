"""The wire as an outsider sees it: golden vectors by an independent decoder, and talk with a live scheduler.

The scheduler binary is BETTERBOX_SCHEDULER, or the one of the release build; without one, the live tests are
skipped.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bus_decoder import (  # noqa: E402
    HEADER, MESSAGES, VERSION, ConnectionEnded, DecodeError, Message, Peer, decode, encode, item_of, items_of,
    page_of, value_of)

ROOT = Path(__file__).parents[2]
STORE = '0b8e5b8e-0000-4000-8000-123456789abc:25'
GOLDEN = sorted((ROOT / 'tests' / 'golden').glob('*.hex'))

# --- golden vectors -----------------------------------------------------------------------------------------

CALL = {'client': 0x1122334455667788, 'serial': 9}
BOX = {'agent': 0xA1A2A3A4A5A6A7A8, 'seat': 3, 'life': 2}
BOX_INFO = {'box': BOX, 'port': 8090, 'class_name': 'ABox', 'sandbox': True, 'methods': [
    {'name': 'name', 'flags': 0}, {'name': 'tick', 'flags': 1}, {'name': 'wait', 'flags': 2}]}
BOX_ENTRY = {'info': BOX_INFO, 'endpoint': 'ipc:///run/user/1000/betterbox/0/a',
             'network_endpoint': 'tcp://10.0.0.7:40123', 'host': 'node1', 'pid': 4242,
             'joined': 17}
STATS = {
    'total': 1000, 'closed': True, 'settled': 900, 'makespan_ns': 5_000_000_000, 'busy_ns': 9_000_000_000,
    'longest_ns': 70_000_000, 'waiting': 'no worker has joined', 'policy': 'auto', 'pending': 50, 'leases': 12,
    'splits': 4, 'copies': 2, 'copies_won': 1, 'wasted_ns': 80_000_000, 'ideal_ns': 4_500_000_000,
    'greedy_ns': 4_600_000_000, 'agents': [
        {'agent': 0xA1A2A3A4A5A6A7A8, 'name': 'w-1', 'host': 'node1', 'pid': 4242, 'slots': 2, 'items': 900,
         'busy_ns': 9_000_000_000, 'first_ns': 20_000_000, 'last_ns': 4_900_000_000, 'retries': 1, 'steals': 3,
         'outstanding': 50, 'seats': [
             {'seat': 0, 'items': 400, 'busy_ns': 4_000_000_000, 'longest_ns': 60_000_000,
              'first_ns': 20_000_000, 'last_ns': 4_800_000_000},
             {'seat': 1, 'items': 500, 'busy_ns': 5_000_000_000, 'longest_ns': 70_000_000,
              'first_ns': 30_000_000, 'last_ns': 4_900_000_000}]}]}
DEATH = {'signal': 11, 'exit_code': 3, 'host': 'node1', 'pid': 4343, 'peak_kib': 123456,
         'stderr_tail': 'Fatal error: é'}
RESOURCES = {'cpus_milli': 4_000, 'memory_bytes': 8_000_000_000, 'gpus_milli': 1_500,
             'named': [{'name': 'licence', 'milli': 2_000}, {'name': 'tape', 'milli': 500}]}
LOAD = {'busy_slots': 2, 'others_cpus_milli': 1_250, 'memory_bytes': 3_000_000_000, 'paused': True, 'ending': True,
        'time_left_ms': 90_000, 'waiting_slots': 3, 'lends': False}
STORE = '0b8e5b8e-0000-4000-8000-123456789abc:25'
VALUE = {'name': 'betterbox-0-1122334455667788-7', 'serial': 7, 'bytes': 1_052_672}
WORKER = {'role': 2, 'peer': 0xA1A2A3A4A5A6A7A8, 'name': 'w-1', 'host': 'node1', 'pid': 4242,
          'function_slots': 2, 'leased_items': 77, 'log_folder': '/var/log/betterbox', 'connected': False,
          'capacity': RESOURCES, 'load': LOAD}


def span(first: int, count: int) -> dict[str, int]:
    return {'first': first, 'count': count}


def items(begin: int, end: int) -> dict[str, int]:
    return {'begin': begin, 'end': end}


#: What each vector says, written down by hand from the samples' meaning.
EXPECTED: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    'Hello': ({'role': 2, 'peer': 0xA1A2A3A4A5A6A7A8, 'session': 2, 'python': '3.11', 'host': 'node1',
               'boot_id': '0b8e5b8e-0000-4000-8000-123456789abc', 'pid': 4242, 'name': 'w-1',
               'endpoint': 'ipc:///run/user/1000/betterbox/0/a',
               'network_endpoint': 'tcp://10.0.0.7:40123', 'log_folder': '/var/log/betterbox',
               'background': True, 'calls': [1, 2, 3], 'store': STORE,
               'leases': [{'lease': 5, 'undelivered': [items(10, 20), items(30, 31)]},
                          {'lease': 6, 'undelivered': [items(0, 1)]}]}, []),
    'Welcome': ({'peer': 0xB1, 'session': 2, 'host': 'node0', 'pid': 99, 'dropped_leases': [6],
                 'calls': [{'serial': 1, 'items': 100}, {'serial': 3, 'items': 0}], 'store': STORE}, []),
    'Refused': ({'code': 2, 'text': 'the peer id is in use'}, []),
    'Bye': ({}, []),
    'Offer': ({'function_slots': 2, 'joined': [BOX_INFO], 'left': [{'agent': 0xA1, 'seat': 1, 'life': 1}],
               'capacity': RESOURCES}, []),
    'Watch': ({'port': 8090}, []),
    'Unwatch': ({'port': 8091}, []),
    'Boxes': ({'port': 8090, 'snapshot': True, 'joined': [BOX_ENTRY], 'left': [BOX]}, []),
    'BoxCall': ({'serial': 41, 'box': BOX, 'method': 'name'}, [b'arguments']),
    'BoxCancel': ({'serial': 41}, []),
    'BoxReply': ({'serial': 41}, [b'\x05MyBox']),
    'Call': ({'serial': 9, 'port': 8090, 'method': 'energy', 'retries': 2, 'idempotent': True, 'fold': True,
              'timeout_ns': 1_500_000_000, 'name': 'sweep', 'settled': [items(0, 5)], 'policy': 'fac2',
              'priority': -3, 'needs': RESOURCES, 'copies_permille': 50, 'durable': True,
              'values': [{'value': VALUE, 'store': 'store'}],
              'content': {'high': 0x0123456789ABCDEF, 'low': 0xFEDCBA9876543210}, 'depth': 6}, [b'context']),
    'Items': ({'serial': 9, 'spans': [span(0, 2), span(2, 3)], 'closed': True,
               'costs': [1.0, 2.0, 0.5, 4.0, 8.0]}, [b'page one', b'page two']),
    'Cancel': ({'serial': 9, 'range': items(4, 8)}, []),
    'Forget': ({'serial': 9}, []),
    'Results': ({'ack': 12, 'serial': 9, 'spans': [span(0, 2), span(4, 1)]}, [b'page a', b'page b']),
    'Acknowledge': ({'ack': 12}, []),
    'Settled': ({'serial': 9, 'stats': STATS}, []),
    'Explain': ({'serial': 9}, []),
    'Explanation': ({'serial': 9, 'stats': STATS}, []),
    'Context': ({'call': CALL, 'port': 8090, 'method': 'energy', 'fold': True, 'policy': 'auto',
                 'priority': 7, 'needs': RESOURCES, 'values': [{'value': VALUE, 'store': 'store'}],
                 'held': 3, 'dropped': [1, 2], 'depth': 6}, [b'context']),
    'Lease': ({'lease': 5, 'call': CALL, 'range': items(10, 20), 'attempt': 1,
               'spans': [span(8, 8), span(16, 8)], 'costs': [0.5, 2.0], 'low_water': 2,
               'report_interval_ns': 10_000_000}, [b'page one', b'page two']),
    'Revoke': ({'lease': 5, 'count': 4}, []),
    'Released': ({'lease': 5, 'ranges': [items(16, 20)]}, []),
    'Abandon': ({'lease': 5, 'range': items(12, 14)}, []),
    'DropCall': ({'call': CALL}, []),
    'Outcomes': ({'ack': 7, 'lease': 5, 'spans': [{**span(10, 2), 'busy_ns': 3000}],
                  'seats': [{'seat': 1, 'items': 2, 'busy_ns': 3000, 'busy_squares': 5e6, 'longest_ns': 2000}],
                  'lost': [{'index': 12, 'death': DEATH}], 'steals': 3, 'held_ns': 70_000}, [b'page a']),
    'Deploy': ({'serial': 4, 'port': 8090, 'slots': 4, 'name': 'keeper'}, [b'box']),
    'Host': ({'deployment': CALL, 'port': 8090, 'first': 2, 'slots': 2, 'total': 5, 'name': 'keeper'}, [b'box']),
    'Hosted': ({'deployment': CALL, 'ok': False}, [b'error']),
    'Deployed': ({'serial': 4, 'ok': False, 'error': 'no worker has joined'}, [b'error']),
    'Undeploy': ({'deployment': CALL}, []),
    'Status': ({}, []),
    'StatusReport': ({'scheduler': {**WORKER, 'role': 1}, 'uptime_ns': 123_456_789, 'peers': [WORKER],
                      'boxes': [BOX_ENTRY], 'calls': [{'call': CALL, 'port': 8090, 'method': 'energy',
                                                       'name': 'sweep',
                                                       'total': 1000, 'settled': 900, 'running': 50}],
                      'counters': [{'name': 'malformed_messages', 'value': 3},
                                   {'name': 'stale_outcomes', 'value': 1}],
                      'values': [{'value': VALUE, 'label': 'ndarray', 'owner_host': 'node1', 'owner_pid': 4242,
                                  'holders': 2, 'replicas': 3, 'copies': 1, 'stores': 2}]}, []),
    'Accepted': ({'serial': 9, 'items': 5}, []),
    'Load': (LOAD, []),
    'OpenLane': ({'serial': 42, 'box': BOX, 'pid': 4711, 'descriptor': 17, 'nonce': 0x1122334455667788}, []),
    'Hold': ({'value': VALUE, 'store': STORE, 'label': 'ndarray', 'replicas': 3}, []),
    'Drop': ({'name': VALUE['name']}, []),
    'Keep': ({'value': VALUE, 'store': STORE}, []),
    'Kept': ({'value': VALUE, 'ok': False, 'error': 'no room'}, []),
    'Discard': ({'name': VALUE['name']}, []),
    'Locate': ({'value': VALUE, 'store': STORE, 'avoid': 0xA1A2A3A4A5A6A7A8}, []),
    'Source': ({'name': VALUE['name'], 'here': True, 'source': 0xA1A2A3A4A5A6A7A8, 'endpoint': 'ipc:///run/a',
                'error': 'nobody has it'}, []),
    'Fetch': ({'peer': 0xA1A2A3A4A5A6A7A8, 'value': VALUE, 'offset': 4096, 'count': 1048576}, []),
    'Chunk': ({'peer': 0xA1A2A3A4A5A6A7A8, 'name': VALUE['name'], 'offset': 4096}, [b'bytes']),
    'Fetched': ({'name': VALUE['name'], 'ok': True}, []),
    'Broadcast': ({'sequence': 7, 'value': VALUE, 'store': STORE, 'members': [0, 3, 5]}, []),
    'Relay': ({'peer': 0xA1A2A3A4A5A6A7A8, 'over': False}, [b'first', b'payload']),
    'Waits': ({'number': 3, 'box': BOX, 'call': CALL, 'boxes': [BOX], 'calls': [9, 10]}, []),
    'Deadlock': ({'number': 3, 'text': 'box A waits for box A'}, []),
    'Proof': ({'high': 0xA1A2A3A4A5A6A7A8, 'low': 0xB1B2B3B4B5B6B7B8}, []),
    'Inquire': ({'serial': 9, 'number': 3, 'items': [items(0, 4), items(6, 7)], 'withdraw': True}, []),
    'Begun': ({'serial': 9, 'number': 3, 'items': [items(2, 4)]}, []),
}


def read_vector(path: Path) -> list[bytes]:
    return [bytes.fromhex(line) for line in path.read_text().splitlines()]


def test_there_is_a_vector_for_every_kind_of_message() -> None:
    assert [path.stem for path in GOLDEN] == [f'{n:02}_{name}' for n, (name, _, _) in enumerate(MESSAGES, 1)]


@pytest.mark.parametrize('path', GOLDEN, ids=[path.stem for path in GOLDEN])
def test_a_golden_vector_says_what_its_sample_means(path: Path) -> None:
    frames = read_vector(path)
    kind = path.stem[3:]
    fields, payload = EXPECTED[kind]
    assert decode(frames) == Message(kind, fields, payload)
    assert encode(kind, fields, payload) == frames


@pytest.mark.parametrize('path', GOLDEN, ids=[path.stem for path in GOLDEN])
def test_no_truncation_of_a_vector_is_a_message(path: Path) -> None:
    first, *payload = read_vector(path)
    for size in range(len(first)):
        with pytest.raises(DecodeError):
            decode([first[:size], *payload])
        if size >= HEADER.size:
            fitting = HEADER.pack(*HEADER.unpack(first[:16])[:4], size - 16) + first[16:size]
            with pytest.raises(DecodeError):
                decode([fitting, *payload])
    wrong_ones: list[list[bytes]] = [[first, *payload, b'one more'], [first + b'x', *payload], []]
    for wrong in wrong_ones:
        with pytest.raises(DecodeError):
            decode(wrong)


def test_changed_vectors_are_refused_or_decoded_never_worse() -> None:
    draw = random.Random(1)
    for path in GOLDEN:
        first, *payload = read_vector(path)
        for _ in range(200):
            changed = bytearray(first)
            for _ in range(draw.randint(1, 4)):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            try:
                decode([bytes(changed), *payload])
            except DecodeError:
                pass


def test_plain_items_and_pages_are_read_as_written() -> None:
    values: list[Any] = [None, True, False, -7, 2.5, 'é', b'\0\1']
    assert [value_of(item) for item in items_of(page_of([item_of(value) for value in values]))] == values
    with pytest.raises(DecodeError):
        items_of(b'\1\0\0\0\2\0\0\0' + b'\0' * 12)


COLUMNS: list[tuple[str, list[Any]]] = [
    ('05 00 1000 02000000 0000000000000000', [None, None]),
    ('05 01 1000 03000000 0100000000000000 010001', [True, False, True]),
    ('05 02 1000 02000000 0800000000000000 0700000000000000 ffffffffffffffff', [7, -1]),
    ('05 03 1000 01000000 0800000000000000 0000000000000440', [2.5]),
    ('05 04 2000 02000000 0200000000000000 033c6932000000000000000000000000 0100 ffff',
     [(16, b'\x03<i2\1\0'), (16, b'\x03<i2\xff\xff')]),
    ('05 05 2000 01000000 0200000000000000 037c7531 01 0200000000000000 000000 0809',
     [(9, (b'\x03|u1\1\2' + bytes(7)).ljust(63, b'\0') + b'\x08\x09')]),
]


def test_columns_are_written_out_as_items() -> None:
    for text, values in COLUMNS:
        page = bytes.fromhex(text)
        assert [value_of(item) for item in items_of(page)] == values
        for wrong in (page[:-1], page + b'\0', page[:1] + b'\6' + page[2:], page[:2] + b'\7' + page[3:]):
            with pytest.raises(DecodeError):
                items_of(wrong)


def test_arguments_of_a_submission_are_decoded_and_do_not_nest() -> None:
    def part(item: bytes) -> bytes:
        return struct.pack('<I', len(item)) + item

    item = b'\x0c' + struct.pack('<II', 2, 1) + part(item_of(1)) + part(item_of('two')) + part(b'k') + part(item_of(None))
    assert value_of(item) == {'args': [1, 'two'], 'kwargs': {'k': None}}
    for wrong in (item[:-1], item + b'x', b'\x0c' + struct.pack('<II', 1, 0) + part(item)):
        with pytest.raises(DecodeError):
            value_of(wrong)


# --- a live scheduler ---------------------------------------------------------------------------------------

SCHEDULER = Path(os.environ.get('BETTERBOX_SCHEDULER',
                                ROOT / 'build/release/python/betterbox/_bin/betterbox-scheduler'))
needs_scheduler = pytest.mark.skipif(not SCHEDULER.exists(), reason='the scheduler is not built')
BOOT_ID = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
WORKER_ROLE, BOX_HOST_ROLE, CLIENT_ROLE = 2, 3, 4


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A scheduler of its own; checks that it ends cleanly and leaves nothing."""
    runtime = tmp_path / 'run'
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(runtime))
    bus = tmp_path / 'bus.json'
    ready, ready_in = os.pipe()
    process = subprocess.Popen([SCHEDULER, '--bus', bus, '--ready-fd', str(ready_in), '--python', '3.11'],
                               pass_fds=[ready_in], stderr=subprocess.PIPE, text=True)
    os.close(ready_in)
    with os.fdopen(ready) as pipe:
        assert pipe.readline(), 'the scheduler did not start'
    yield json.loads(bus.read_text())['endpoint']
    assert process.poll() is None, 'the scheduler died'
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert not bus.exists()


peer_ids = itertools.count(0x5EED0001)


def join(peer: Peer, role: int, **more: Any) -> int:
    """Greets the scheduler; returns the peer id that was used."""
    own = next(peer_ids)
    peer.send('Hello', {'role': role, 'peer': own, 'session': 1, 'python': '3.11',
                        'host': socket.gethostname(),
                        'boot_id': BOOT_ID, 'pid': os.getpid(), 'name': 'decoder', **more})
    welcome = peer.expect('Welcome')
    assert welcome.fields['session'] == 1
    assert welcome.fields['peer'] != 0
    return own


def status(endpoint: str) -> dict[str, Any]:
    with Peer(endpoint) as peer:
        join(peer, CLIENT_ROLE)
        peer.send('Status')
        report = peer.expect('StatusReport').fields
        return {**report, 'counters': {counter['name']: counter['value'] for counter in report['counters']}}


@needs_scheduler
def test_a_scheduler_welcomes_and_reports_its_peers(endpoint: str) -> None:
    with Peer(endpoint) as client:
        own = join(client, CLIENT_ROLE)
        client.send('Status')
        report = client.expect('StatusReport').fields
        assert report['scheduler']['role'] == 1
        assert own in [peer['peer'] for peer in report['peers']]


@needs_scheduler
def test_another_python_is_welcome(endpoint: str) -> None:
    with Peer(endpoint) as client:
        client.send('Hello', {'role': CLIENT_ROLE, 'peer': 7, 'session': 1, 'python': '3.9',
                              'pid': os.getpid()})
        assert client.receive().kind == 'Welcome'


@needs_scheduler
def test_a_watcher_is_told_of_boxes_that_join_and_leave(endpoint: str) -> None:
    with Peer(endpoint) as client, Peer(endpoint) as host:
        join(client, CLIENT_ROLE)
        client.send('Watch', {'port': 8090})
        snapshot = client.expect('Boxes').fields
        assert snapshot['snapshot'] and snapshot['joined'] == []
        agent = join(host, BOX_HOST_ROLE, endpoint='ipc:///nowhere/a')
        box = {'box': {'agent': agent, 'seat': 0, 'life': 1}, 'port': 8090, 'class_name': 'ABox',
               'sandbox': False,
               'methods': [{'name': 'name', 'flags': 0}]}
        host.send('Offer', {'joined': [box]})
        joined = client.expect('Boxes').fields
        assert not joined['snapshot']
        assert [entry['info'] for entry in joined['joined']] == [box]
        assert joined['joined'][0]['endpoint'] == 'ipc:///nowhere/a'
        host.send('Bye')
        assert client.expect('Boxes').fields['left'] == [box['box']]


def run_leases(worker: Peer, total: int) -> None:
    """A worker that squares integers until `total` outcomes were sent; knows contexts before leases."""
    contexts: dict[str, bytes] = {}
    done, ack = 0, 0
    while done < total:
        message = worker.receive()
        if message.kind == 'Context':
            contexts[str(message.fields['call'])] = message.payload[0]
        if message.kind == 'Revoke':
            worker.send('Released', {'lease': message.fields['lease'], 'ranges': []})
        if message.kind != 'Lease':
            continue
        lease = message.fields
        assert contexts[str(lease['call'])] == b'square'
        values = {}
        for place, page in zip(lease['spans'], message.payload):
            for index, item in enumerate(items_of(page), place['first']):
                values[index] = value_of(item)
        begin, end = lease['range']['begin'], lease['range']['end']
        ack += 1
        worker.send('Outcomes', {'ack': ack, 'lease': lease['lease'],
                                 'spans': [{**span(begin, end - begin), 'busy_ns': 1000}],
                                 'seats': [{'seat': 0, 'items': end - begin, 'busy_ns': 1000,
                                            'busy_squares': 100.0, 'longest_ns': 10}]},
                    [page_of([item_of(values[i] ** 2) for i in range(begin, end)])])
        done += end - begin


@needs_scheduler
def test_a_spread_call_goes_from_client_to_worker_and_back(endpoint: str) -> None:
    with Peer(endpoint) as client, Peer(endpoint) as worker:
        join(worker, WORKER_ROLE, endpoint='ipc:///nowhere/w')
        worker.send('Offer', {'function_slots': 1})
        join(client, CLIENT_ROLE)
        client.send('Call', {'serial': 1, 'port': 0, 'method': 'square', 'retries': 2}, [b'square'])
        client.send('Items', {'serial': 1, 'spans': [span(0, 60), span(60, 40)], 'closed': True},
                    [page_of([item_of(i) for i in range(60)]), page_of([item_of(i) for i in range(60, 100)])])
        run_leases(worker, 100)
        results: dict[int, int] = {}
        while True:
            message = client.receive()
            if message.kind == 'Settled':
                break
            assert message.kind == 'Results'
            for place, page in zip(message.fields['spans'], message.payload):
                got = items_of(page)
                assert len(got) == place['count']
                for index, item in enumerate(got, place['first']):
                    assert index not in results
                    results[index] = value_of(item)
            client.send('Acknowledge', {'ack': message.fields['ack']})
        assert results == {i: i * i for i in range(100)}
        stats = message.fields['stats']
        assert (stats['total'], stats['settled'], stats['closed']) == (100, 100, True)
        assert stats['agents'][0]['seats'][0]['items'] == 100
        client.send('Forget', {'serial': 1})


@needs_scheduler
def test_a_cancelled_call_settles_without_a_worker(endpoint: str) -> None:
    with Peer(endpoint) as client:
        join(client, CLIENT_ROLE)
        client.send('Call', {'serial': 1, 'port': 0, 'method': 'f'}, [b'code'])
        client.send('Items', {'serial': 1, 'spans': [span(0, 3)], 'closed': True},
                    [page_of([item_of(0)] * 3)])
        client.send('Explain', {'serial': 1})
        assert client.expect('Explanation').fields['stats']['waiting']
        client.send('Cancel', {'serial': 1, 'range': items(0, 3)})
        outcomes = client.expect('Results')
        lost = [value_of(item) for page in outcomes.payload for item in items_of(page)]
        assert [one['code'] for one in lost] == [2] * len(lost)
        assert client.expect('Settled').fields['stats']['settled'] == 3


GARBAGE: dict[str, list[bytes]] = {
    'no header': [b'hello?'],
    'another magic': [b'X' * 64],
    'another version': [encode('Bye')[0][:4] + b'\x01\x00' + encode('Bye')[0][6:]],
    'an unknown kind': [encode('Bye')[0][:6] + b'\xff\xff' + encode('Bye')[0][8:]],
    'a truncated body': [encode('Watch', {'port': 1})[0][:-1]],
    'bytes behind the body': [encode('Watch', {'port': 1})[0] + b'x'],
    'a frame that does not belong': [*encode('Status'), b'what?'],
    'too many frames': [b'x'] * 5000,
    'a body over the limit': [b'x' * (5 << 20)],
    'a huge count': [HEADER.pack(0x31584242, VERSION, 24, 0, 17) + b'\1' + b'\0' * 8 + b'\xff' * 8],
}


@needs_scheduler
def test_garbage_ends_its_sender_and_is_counted_while_service_goes_on(endpoint: str) -> None:
    with Peer(endpoint) as bystander:
        join(bystander, CLIENT_ROLE)
        for number, (what, frames) in enumerate(GARBAGE.items(), 1):
            for greet in (True, False):
                with Peer(endpoint) as rude:
                    if greet:
                        join(rude, CLIENT_ROLE)
                    rude.send_frames(frames)
                    with pytest.raises(ConnectionEnded):
                        while True:
                            rude.receive()
            assert status(endpoint)['counters']['malformed_messages'] == 2 * number, what
        bystander.send('Watch', {'port': 5})
        assert bystander.expect('Boxes').fields['port'] == 5


@needs_scheduler
def test_every_mutant_of_every_vector_leaves_the_scheduler_serving(endpoint: str) -> None:
    draw = random.Random(2)
    for path in GOLDEN:
        first, *payload = read_vector(path)
        with Peer(endpoint) as rude:
            join(rude, draw.choice([WORKER_ROLE, BOX_HOST_ROLE, CLIENT_ROLE]))
            rude.send_frames([first, *payload])
            for _ in range(20):
                changed = bytearray(first)
                changed[draw.randrange(16, len(changed))] = draw.randrange(256)
                rude.send_frames([bytes(changed), *payload])
            rude.send('Status')
            try:
                rude.expect('StatusReport')
            except (ConnectionEnded, AssertionError):
                pass
        assert status(endpoint)['scheduler']['role'] == 1, path.stem


@needs_scheduler
def test_bytes_that_are_not_even_zmtp_disturb_nobody(endpoint: str) -> None:
    path = endpoint.removeprefix('ipc://')
    open_ones = []
    for junk in (b'', b'\xff' * 4096, b'GET / HTTP/1.1\r\n\r\n', b'\xff\0\0\0\0\0\0\0\1\x7f\3'):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(path)
        raw.sendall(junk)
        open_ones.append(raw)
    assert status(endpoint)['counters']['malformed_messages'] == 0
    for raw in open_ones:
        raw.close()


@needs_scheduler
def test_messages_out_of_turn_are_refused(endpoint: str) -> None:
    for early in (encode('Status'), encode('Welcome'), encode('Items', {'serial': 3, 'closed': True})):
        with Peer(endpoint) as rude:
            rude.send_frames(early)
            with pytest.raises(ConnectionEnded):
                while True:
                    assert rude.receive().kind == 'Refused'
    assert status(endpoint)['scheduler']['role'] == 1
