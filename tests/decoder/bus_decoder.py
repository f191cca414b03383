"""An independent reading of docs/protocol.md: the whole wire in plain Python.

It shares no code with BetterBox and needs `struct` alone (`Peer`, at the end, also pyzmq), so that what the
page says and what the product does are checked against each other.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from typing import Any, Callable

MAGIC = 0x31584242
VERSION = 3
HEADER = struct.Struct('<IHHII')
MAX_FRAMES = 4096
MAX_BODY_BYTES = 4 << 20

#: Marks of the carrier: single frames shorter than a header.
END_MARK = b''
PROBE_MARK = b'\0'

Fields = dict[str, Any]


class DecodeError(Exception):
    """The bytes are no message (or page, or item)."""


# --- the encoding -------------------------------------------------------------------------------------

NUMBERS = {'u8': 'B', 'u16': 'H', 'u32': 'I', 'i32': 'i', 'u64': 'Q', 'i64': 'q', 'f32': 'f', 'f64': 'd'}
STRONG = {'peer': 'u64', 'lease': 'u64', 'port': 'u16', 'seat': 'u32'}

#: Parts of messages: fields in the order of the wire.
STRUCTS: dict[str, list[tuple[str, str]]] = {
    'Range': [('begin', 'u64'), ('end', 'u64')],
    'CallId': [('client', 'peer'), ('serial', 'u64')],
    'BoxId': [('agent', 'peer'), ('seat', 'seat'), ('life', 'u32')],
    'HeldLease': [('lease', 'lease'), ('undelivered', '[Range]')],
    'KnownCall': [('serial', 'u64'), ('items', 'u64')],
    'MethodInfo': [('name', 'str'), ('flags', 'u8')],
    'BoxInfo': [('box', 'BoxId'), ('port', 'port'), ('class_name', 'str'), ('sandbox', 'bool'),
                ('methods', '[MethodInfo]')],
    'BoxEntry': [('info', 'BoxInfo'), ('endpoint', 'str'), ('network_endpoint', 'str'), ('host', 'str'),
                 ('pid', 'u32'), ('joined', 'u64')],
    'PageSpan': [('first', 'u64'), ('count', 'u64')],
    'Amount': [('name', 'str'), ('milli', 'u64')],
    'Resources': [('cpus_milli', 'u64'), ('memory_bytes', 'u64'), ('gpus_milli', 'u64'), ('named', '[Amount]')],
    'SlotStats': [('seat', 'seat'), ('items', 'u64'), ('busy_ns', 'i64'), ('longest_ns', 'i64'),
                  ('first_ns', 'i64'), ('last_ns', 'i64')],
    'AgentStats': [('agent', 'peer'), ('name', 'str'), ('host', 'str'), ('pid', 'u32'), ('slots', 'u32'),
                   ('items', 'u64'), ('busy_ns', 'i64'), ('first_ns', 'i64'), ('last_ns', 'i64'),
                   ('retries', 'u64'), ('steals', 'u64'), ('outstanding', 'u64'), ('seats', '[SlotStats]')],
    'CallStats': [('total', 'u64'), ('closed', 'bool'), ('settled', 'u64'), ('makespan_ns', 'i64'),
                  ('busy_ns', 'i64'), ('longest_ns', 'i64'), ('agents', '[AgentStats]'), ('waiting', 'str'),
                  ('policy', 'str'), ('pending', 'u64'), ('leases', 'u64'), ('splits', 'u64'), ('copies', 'u64'),
                  ('copies_won', 'u64'), ('wasted_ns', 'i64'), ('ideal_ns', 'i64'), ('greedy_ns', 'i64')],
    'DeathReport': [('signal', 'i32'), ('exit_code', 'i32'), ('host', 'str'), ('pid', 'u32'), ('peak_kib',
                                                                                               'u64'),
                    ('stderr_tail', 'str')],
    'OutcomeSpan': [('first', 'u64'), ('count', 'u64'), ('busy_ns', 'i64')],
    'SeatWork': [('seat', 'seat'), ('items', 'u64'), ('busy_ns', 'i64'), ('busy_squares', 'f64'),
                 ('longest_ns', 'i64')],
    'LostItem': [('index', 'u64'), ('death', 'DeathReport')],
    'Load': [('busy_slots', 'u32'), ('others_cpus_milli', 'u32'), ('memory_bytes', 'u64'), ('paused', 'bool'),
             ('ending', 'bool'), ('time_left_ms', 'u64'), ('waiting_slots', 'u32'), ('lends', 'bool')],
    'PeerStatus': [('role', 'role'), ('peer', 'peer'), ('name', 'str'), ('host', 'str'), ('pid', 'u32'),
                   ('function_slots', 'u32'), ('leased_items', 'u64'), ('log_folder', 'str'),
                   ('connected', 'bool'), ('capacity', 'Resources'), ('load', 'Load')],
    'CallStatus': [('call', 'CallId'), ('port', 'port'), ('method', 'str'), ('name', 'str'), ('total', 'u64'),
                   ('settled', 'u64'), ('running', 'u64')],
    'ContentId': [('high', 'u64'), ('low', 'u64')],
    'Counter': [('name', 'str'), ('value', 'u64')],
    'ValueId': [('name', 'str'), ('serial', 'u64'), ('bytes', 'u64')],
    'CallValue': [('value', 'ValueId'), ('store', 'str')],
    'ValueStatus': [('value', 'ValueId'), ('label', 'str'), ('owner_host', 'str'), ('owner_pid', 'u32'),
                    ('holders', 'u32'), ('replicas', 'u32'), ('copies', 'u32'), ('stores', 'u32')],
}

#: Messages in the order of their wire numbers (from 1), each with its rule for payload frames:
#: a number, '?' for 0 or 1, 'spans' for one per span, 'relay': 1 or 2, none if the link is over.
MESSAGES: list[tuple[str, int | str, list[tuple[str, str]]]] = [
    ('Hello', 0, [('role', 'role'), ('peer', 'peer'), ('session', 'u64'), ('python', 'str'), ('host', 'str'),
                  ('boot_id', 'str'), ('pid', 'u32'), ('name', 'str'), ('endpoint', 'str'),
                  ('network_endpoint', 'str'), ('log_folder', 'str'), ('background', 'bool'), ('leases', '[HeldLease]'),
                  ('calls', '[u64]'), ('store', 'str')]),
    ('Welcome', 0, [('peer', 'peer'), ('session', 'u64'), ('host', 'str'), ('pid', 'u32'),
                    ('dropped_leases', '[lease]'), ('calls', '[KnownCall]'), ('store', 'str')]),
    ('Refused', 0, [('code', 'refusal'), ('text', 'str')]),
    ('Bye', 0, []),
    ('Offer', 0, [('function_slots', 'u32'), ('joined', '[BoxInfo]'), ('left', '[BoxId]'),
                  ('capacity', 'Resources')]),
    ('Watch', 0, [('port', 'port')]),
    ('Unwatch', 0, [('port', 'port')]),
    ('Boxes', 0, [('port', 'port'), ('snapshot', 'bool'), ('joined', '[BoxEntry]'), ('left', '[BoxId]')]),
    ('BoxCall', 1, [('serial', 'u64'), ('box', 'BoxId'), ('method', 'str')]),
    ('BoxCancel', 0, [('serial', 'u64')]),
    ('BoxReply', 1, [('serial', 'u64')]),
    ('Call', 1, [('serial', 'u64'), ('port', 'port'), ('method', 'str'), ('retries', 'u32'),
                 ('idempotent', 'bool'), ('fold', 'bool'), ('timeout_ns', 'i64'), ('name', 'str'),
                 ('settled', '[Range]'), ('policy', 'str'), ('priority', 'i32'), ('needs', 'Resources'),
                 ('copies_permille', 'u32'), ('durable', 'bool'), ('values', '[CallValue]'),
                 ('content', 'ContentId'), ('depth', 'u32')]),
    ('Items', 'spans', [('serial', 'u64'), ('spans', '[PageSpan]'), ('closed', 'bool'), ('costs', '[f32]')]),
    ('Cancel', 0, [('serial', 'u64'), ('range', 'Range')]),
    ('Forget', 0, [('serial', 'u64')]),
    ('Results', 'spans', [('ack', 'u64'), ('serial', 'u64'), ('spans', '[PageSpan]')]),
    ('Acknowledge', 0, [('ack', 'u64')]),
    ('Settled', 0, [('serial', 'u64'), ('stats', 'CallStats')]),
    ('Explain', 0, [('serial', 'u64')]),
    ('Explanation', 0, [('serial', 'u64'), ('stats', 'CallStats')]),
    ('Context', '?', [('call', 'CallId'), ('port', 'port'), ('method', 'str'), ('fold', 'bool'),
                    ('policy', 'str'), ('priority', 'i32'), ('needs', 'Resources'), ('values', '[CallValue]'),
                    ('held', 'u64'), ('dropped', '[u64]'), ('depth', 'u32')]),
    ('Lease', 'spans', [('lease', 'lease'), ('call', 'CallId'), ('range', 'Range'), ('attempt', 'u32'),
                        ('spans', '[PageSpan]'), ('costs', '[f32]'), ('low_water', 'u64'),
                        ('report_interval_ns', 'i64')]),
    ('Revoke', 0, [('lease', 'lease'), ('count', 'u64')]),
    ('Released', 0, [('lease', 'lease'), ('ranges', '[Range]')]),
    ('Abandon', 0, [('lease', 'lease'), ('range', 'Range')]),
    ('DropCall', 0, [('call', 'CallId')]),
    ('Outcomes', 'spans', [('ack', 'u64'), ('lease', 'lease'), ('spans', '[OutcomeSpan]'),
                           ('seats', '[SeatWork]'), ('lost', '[LostItem]'), ('steals', 'u32'),
                           ('held_ns', 'i64')]),
    ('Deploy', 1, [('serial', 'u64'), ('port', 'port'), ('slots', 'u32'), ('name', 'str')]),
    ('Host', 1, [('deployment', 'CallId'), ('port', 'port'), ('first', 'u32'), ('slots', 'u32'),
                 ('total', 'u32'), ('name', 'str')]),
    ('Hosted', '?', [('deployment', 'CallId'), ('ok', 'bool')]),
    ('Deployed', '?', [('serial', 'u64'), ('ok', 'bool'), ('error', 'str')]),
    ('Undeploy', 0, [('deployment', 'CallId')]),
    ('Status', 0, []),
    ('StatusReport', 0, [('scheduler', 'PeerStatus'), ('uptime_ns', 'i64'), ('peers', '[PeerStatus]'),
                         ('boxes', '[BoxEntry]'), ('calls', '[CallStatus]'), ('counters', '[Counter]'),
                         ('values', '[ValueStatus]')]),
    ('Accepted', 0, [('serial', 'u64'), ('items', 'u64')]),
    ('Load', 0, [('busy_slots', 'u32'), ('others_cpus_milli', 'u32'), ('memory_bytes', 'u64'),
                 ('paused', 'bool'), ('ending', 'bool'), ('time_left_ms', 'u64'), ('waiting_slots', 'u32'),
                 ('lends', 'bool')]),
    ('OpenLane', 0, [('serial', 'u64'), ('box', 'BoxId'), ('pid', 'u32'), ('descriptor', 'u32'), ('nonce', 'u64')]),
    ('Hold', 0, [('value', 'ValueId'), ('store', 'str'), ('label', 'str'), ('replicas', 'u32')]),
    ('Drop', 0, [('name', 'str')]),
    ('Keep', 0, [('value', 'ValueId'), ('store', 'str')]),
    ('Kept', 0, [('value', 'ValueId'), ('ok', 'bool'), ('error', 'str')]),
    ('Discard', 0, [('name', 'str')]),
    ('Locate', 0, [('value', 'ValueId'), ('store', 'str'), ('avoid', 'peer')]),
    ('Source', 0, [('name', 'str'), ('here', 'bool'), ('source', 'peer'), ('endpoint', 'str'), ('error', 'str')]),
    ('Fetch', 0, [('peer', 'peer'), ('value', 'ValueId'), ('offset', 'u64'), ('count', 'u64')]),
    ('Chunk', '?', [('peer', 'peer'), ('name', 'str'), ('offset', 'u64')]),
    ('Fetched', 0, [('name', 'str'), ('ok', 'bool')]),
    ('Broadcast', 0, [('sequence', 'u64'), ('value', 'ValueId'), ('store', 'str'), ('members', '[u64]')]),
    ('Relay', 'relay', [('peer', 'peer'), ('over', 'bool')]),
    ('Waits', 0, [('number', 'u64'), ('box', 'BoxId'), ('call', 'CallId'), ('boxes', '[BoxId]'), ('calls', '[u64]')]),
    ('Deadlock', 0, [('number', 'u64'), ('text', 'str')]),
    ('Proof', 0, [('high', 'u64'), ('low', 'u64')]),
    ('Inquire', 0, [('serial', 'u64'), ('number', 'u64'), ('items', '[Range]'), ('withdraw', 'bool')]),
    ('Begun', 0, [('serial', 'u64'), ('number', 'u64'), ('items', '[Range]')]),
]
KIND_NUMBERS = {name: number for number, (name, _, _) in enumerate(MESSAGES, 1)}
ENUMS = {'role': ('u8', 4), 'refusal': ('u16', 5)}


class Reader:
    """Reads values off bytes; never past their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise DecodeError('the bytes end too early')
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, kind: str) -> Any:
        code = struct.Struct('<' + NUMBERS[kind])
        value: int | float = code.unpack(self.take(code.size))[0]
        return value

    def value(self, kind: str) -> Any:
        if kind in NUMBERS:
            return self.number(kind)
        if kind in STRONG:
            return self.number(STRONG[kind])
        if kind == 'bool':
            byte = self.number('u8')
            if byte > 1:
                raise DecodeError('a truth value is neither 0 nor 1')
            return byte == 1
        if kind in ENUMS:
            base, last = ENUMS[kind]
            number = self.number(base)
            if not 1 <= number <= last:
                raise DecodeError(f'{number} is no {kind}')
            return number
        if kind == 'str':
            return self.take(self.number('u64')).decode('utf-8', 'replace')
        if kind.startswith('['):
            count = self.number('u64')
            if count > len(self.data) - self.at:
                raise DecodeError('a count passes the end')
            return [self.value(kind[1:-1]) for _ in range(count)]
        fields = {name: self.value(part) for name, part in STRUCTS[kind]}
        if kind == 'Range' and fields['end'] < fields['begin']:
            raise DecodeError('a range ends before it begins')
        if kind in ('PageSpan', 'OutcomeSpan') and fields['first'] + fields['count'] >= 1 << 64:
            raise DecodeError('a span passes the last index')
        return fields


def write(kind: str, value: Any) -> bytes:
    """The bytes of one value."""
    if kind in STRONG:
        kind = STRONG[kind]
    if kind in ENUMS:
        kind = ENUMS[kind][0]
    if kind in NUMBERS:
        return struct.pack('<' + NUMBERS[kind], value)
    if kind == 'bool':
        return b'\1' if value else b'\0'
    if kind == 'str':
        text = str(value).encode()
        return struct.pack('<Q', len(text)) + text
    if kind.startswith('['):
        return struct.pack('<Q', len(value)) + b''.join(write(kind[1:-1], part) for part in value)
    return b''.join([write(part, value[name]) for name, part in STRUCTS[kind]])


@dataclass
class Message:
    kind: str
    fields: Fields
    payload: list[bytes] = field(default_factory=list)


def decode(frames: list[bytes]) -> Message:
    """The message in `frames`; raises DecodeError, and nothing else, if there is none."""
    if not frames or len(frames[0]) < HEADER.size:
        raise DecodeError('shorter than a header')
    magic, version, number, payload_frames, body_bytes = HEADER.unpack(frames[0][:HEADER.size])
    if magic != MAGIC:
        raise DecodeError('no BetterBox message')
    if version != VERSION:
        raise DecodeError(f'version {version}')
    if not 1 <= number <= len(MESSAGES):
        raise DecodeError(f'no kind {number}')
    if payload_frames != len(frames) - 1 or payload_frames > MAX_FRAMES:
        raise DecodeError('a wrong number of frames')
    if body_bytes != len(frames[0]) - HEADER.size or body_bytes > MAX_BODY_BYTES:
        raise DecodeError('a wrong size of the body')
    kind, rule, layout = MESSAGES[number - 1]
    reader = Reader(frames[0][HEADER.size:])
    if reader.number('u8') != 1:
        raise DecodeError('the body is not little-endian')
    fields = {name: reader.value(part) for name, part in layout}
    if reader.at != len(reader.data):
        raise DecodeError('bytes behind the body')
    fits = {'?': payload_frames <= 1, 'spans': payload_frames == len(fields.get('spans', [])),
            'relay': payload_frames == 0 if fields.get('over') else payload_frames in (1, 2)}
    if not (fits[rule] if isinstance(rule, str) else payload_frames == rule):
        raise DecodeError('a wrong number of payload frames for this kind')
    return Message(kind, fields, frames[1:])


def encode(kind: str, fields: Fields | None = None, payload: list[bytes] | None = None) -> list[bytes]:
    """The frames of a message. Fields that are left out are empty (0, '', False, [])."""
    number = KIND_NUMBERS[kind]
    payload = payload or []
    given = fields or {}
    layout = MESSAGES[number - 1][2]
    unknown = set(given) - {name for name, _ in layout}
    if unknown:
        raise ValueError(f'{kind} has no {unknown}')
    body = b'\1' + b''.join(write(part, given.get(name, empty(part))) for name, part in layout)
    return [HEADER.pack(MAGIC, VERSION, number, len(payload), len(body)) + body, *payload]


def empty(kind: str) -> Any:
    if kind.startswith('['):
        return []
    if kind == 'str':
        return ''
    if kind == 'bool':
        return False
    if kind in ENUMS:
        return 1
    if kind in STRUCTS:
        return {name: empty(part) for name, part in STRUCTS[kind]}
    return 0


# --- pages and items ------------------------------------------------------------------------------------

def item_of(value: None | bool | int | float | str | bytes) -> bytes:
    """The item of a plain value."""
    if value is None:
        return b'\0'
    if isinstance(value, bool):
        return b'\1' if value else b'\2'
    if isinstance(value, int):
        return b'\3' + struct.pack('<q', value)
    if isinstance(value, float):
        return b'\4' + struct.pack('<d', value)
    if isinstance(value, str):
        return b'\5' + value.encode()
    return b'\6' + value


def read_texts(reader: Reader, names: list[str]) -> Fields:
    return {name: reader.take(reader.number('u32')).decode('utf-8', 'replace') for name in names}


def value_of(item: bytes) -> Any:
    """The value of a plain item; a dict for an error or a lost one; of other tags (tag, payload)."""
    if not item:
        raise DecodeError('an item without a tag')
    tag, rest = item[0], item[1:]
    plain: dict[int, Callable[[], Any]] = {
        0: lambda: None, 1: lambda: True, 2: lambda: False,
        3: lambda: struct.unpack('<q', rest)[0], 4: lambda: struct.unpack('<d', rest)[0],
        5: lambda: rest.decode(), 6: lambda: rest,
    }
    try:
        if tag in plain:
            if tag <= 2 and rest:
                raise DecodeError('bytes behind a constant')
            return plain[tag]()
    except (struct.error, UnicodeDecodeError) as problem:
        raise DecodeError(str(problem)) from problem
    reader = Reader(rest)
    if tag == 10:
        return {**read_texts(reader, ['type', 'message', 'traceback']), 'pickle': rest[reader.at:]}
    if tag == 11:
        layout = [('code', 'u16'), ('index', 'u64'), ('signal', 'i32'), ('exit_code', 'i32'), ('pid', 'u32'),
                  ('peak_kib', 'u64')]
        fields = {name: reader.number(kind) for name, kind in layout}
        fields.update(read_texts(reader, ['host', 'stderr_tail', 'detail']))
        if reader.at != len(rest):
            raise DecodeError('bytes behind a lost item')
        return fields
    if tag == 12:
        return arguments_of(reader, len(rest))
    if tag > 13 and tag != 16:
        raise DecodeError(f'no item tag {tag}')
    return tag, rest


def arguments_of(reader: Reader, size: int) -> dict[str, Any]:
    """The arguments of a submission: they do not nest."""
    positional, keywords = reader.number('u32'), reader.number('u32')

    def value() -> Any:
        item = reader.take(reader.number('u32'))
        if item[:1] == bytes([12]):
            raise DecodeError('arguments among arguments')
        return value_of(item)

    args = [value() for _ in range(positional)]
    kwargs = {}
    for _ in range(keywords):
        try:
            name = reader.take(reader.number('u32')).decode()
        except UnicodeDecodeError as problem:
            raise DecodeError(str(problem)) from problem
        kwargs[name] = value()
    if reader.at != size:
        raise DecodeError('bytes behind arguments')
    return {'args': args, 'kwargs': kwargs}


def page_of(items: list[bytes]) -> bytes:
    """A page of items (kind 1)."""
    offset = 8 + 4 * (len(items) + 1)
    offsets = [offset]
    for item in items:
        offset += len(item)
        offsets.append(offset)
    return struct.pack(f'<B3xI{len(offsets)}I', 1, len(items), *offsets) + b''.join(items)


def items_of(page: bytes) -> list[bytes]:
    """The items of a page; a range of integers is written out, a fold is its one item."""
    reader = Reader(page)
    kind = reader.number('u8')
    if kind == 1:
        reader.take(3)
        count = reader.number('u32')
        if count > len(page) // 4:
            raise DecodeError('a count passes the end')
        offsets = [reader.number('u32') for _ in range(count + 1)]
        if offsets != sorted(offsets) or offsets[0] != reader.at or offsets[-1] != len(page):
            raise DecodeError('wrong offsets')
        return [page[begin:end] for begin, end in zip(offsets, offsets[1:])]
    if kind == 2:
        reader.take(7)
        count, start, step = reader.number('u64'), reader.number('i64'), reader.number('i64')
        if reader.at != len(page):
            raise DecodeError('bytes behind a range')
        return [item_of(start + i * step) for i in range(count)]
    if kind in (3, 4):
        reader.take(63)
        return [page[64:]]
    if kind == 5:
        return column_items(reader, page)
    raise DecodeError(f'no page kind {kind}')


def column_items(reader: Reader, page: bytes) -> list[bytes]:
    """The values of a column, each as an item of its own."""
    column, header, count, size = (reader.number(kind) for kind in ('u8', 'u16', 'u32', 'u64'))
    if header % 16 or header < 16 or column > 5 or count == 0 or header + count * size != len(page):
        raise DecodeError('wrong numbers of a column')
    if column < 4 and (header, size) != (16, [0, 1, 8, 8][column]):
        raise DecodeError('wrong size of plain values')
    if column > 3 and (header == 16 or size == 0):
        raise DecodeError('a column that does not say what it holds')
    described = page[16:header]
    values = [page[header + i * size:header + (i + 1) * size] for i in range(count)]
    if column == 1:
        return [item_of(value != b'\0') for value in values]
    if column < 4:
        return [b'\0\0\3\4'[column:column + 1] + value for value in values]
    dtype = described[:1 + described[0]]
    if column == 4:
        return [b'\x10' + dtype + value for value in values]
    shape = described[len(dtype):len(dtype) + 1 + 8 * described[len(dtype)]]
    front = b'\x09' + dtype + shape
    return [front + bytes(-len(front) % 64) + value for value in values]


# --- a peer -----------------------------------------------------------------------------------------------

class ConnectionEnded(Exception):
    """The other side closed this connection."""


class Peer:
    """A connection to a listener (a scheduler or an agent), as any peer may write one with pyzmq."""

    def __init__(self, endpoint: str) -> None:
        import zmq
        self._zmq = zmq
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, kind: str, fields: Fields | None = None, payload: list[bytes] | None = None) -> None:
        self.send_frames(encode(kind, fields, payload))

    def send_frames(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames)

    def receive(self, timeout: float = 10.0) -> Message:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not self._socket.poll(int(left * 1000) + 1):
                raise TimeoutError('nothing came')
            frames = self._socket.recv_multipart()
            if frames == [END_MARK]:
                raise ConnectionEnded
            if frames != [PROBE_MARK]:
                return decode(frames)

    def expect(self, kind: str, timeout: float = 10.0) -> Message:
        """The next message of this kind; others are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.receive(deadline - time.monotonic())
            if message.kind == kind:
                return message
            if message.kind == 'Refused':
                raise AssertionError(f'refused: {message.fields}')
