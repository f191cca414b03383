"""The main job on real input: every file under a folder hashed and compressed, spread over boxes.

Run it with ``./dev demo [FOLDER] [--json FILE]``. It serves a box in a few slots of a private bus, spreads the files
over them, does the same work again in one process, compares the results and prints totals and a balance report.

The files go largest first: a long item that starts last would keep one slot busy while the others have nothing left,
and no scheduler can divide a single item. For the same reason "greedy" below, the yardstick for the makespan, is list
scheduling in this order: each item to the slot that is free first, with the times that the items really took.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import lzma
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

from betterbox import Box, LocalCluster, SpreadBox, deploy, spread, use_box

PORT = 4000
DEFAULT_ROOT = "/usr/lib"
DEFAULT_FOLDERS = ("python3", f"python3.{sys.version_info.minor}")
DEFAULT_LIMIT_MB = 40.0
# A file larger than this share of the limit is not chosen: one item that is most of the work says nothing.
LARGEST_SHARE = 0.125
# Smaller files are not listed by how well they compress.
SMALLEST_RATED = 1024


class File(NamedTuple):
    """A regular file: its path relative to the folder, as bytes, and its size."""

    path: bytes
    size: int


class Measured(NamedTuple):
    """What is found out about a file, and when (monotonic clock) and where that was done."""

    sha256: str
    compressed: int
    begin: float
    end: float
    pid: int
    error: str = ""


def hash_and_compress(path: bytes, preset: int) -> tuple[str, int, str]:
    """SHA-256, compressed size, and why it could not be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        return "", 0, error.strerror or str(error)
    return hashlib.sha256(data).hexdigest(), len(lzma.compress(data, preset=preset)), ""


def measure_file(path: bytes, preset: int) -> tuple[str, int, float, float, int, str]:
    """The fields of `Measured` for one file. One that cannot be read is a result too."""
    begin = time.monotonic()
    sha256, compressed, error = hash_and_compress(path, preset)  # its memory is given back within the time
    return sha256, compressed, begin, time.monotonic(), os.getpid(), error


class Compressor(Box):
    """The box: one instance per slot."""

    def measure(self, path: bytes, root: bytes, preset: int) -> tuple[str, int, float, float, int, str]:
        return measure_file(os.path.join(root, path), preset)


# --- input ---------------------------------------------------------------------------------------------


def regular_files(root: bytes, folders: Iterable[bytes], complaints: list[str], skip_caches: bool) -> Iterator[File]:
    """Regular files under ``root/folder`` for each folder; links are not followed, other kinds are left out."""
    waiting = [folder for folder in folders]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(os.path.join(root, folder)), key=lambda entry: entry.name)
        except OSError as error:
            complaints.append(f"{os.fsdecode(folder) or '.'}: {error.strerror}")
            continue
        for entry in entries:
            path = os.path.join(folder, entry.name)
            try:
                if entry.is_dir(follow_symlinks=False):
                    if not (skip_caches and entry.name == b"__pycache__"):
                        waiting.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield File(path, entry.stat(follow_symlinks=False).st_size)
            except OSError as error:
                complaints.append(f"{os.fsdecode(path)}: {error.strerror}")


def choose(files: list[File], limit: float) -> list[File]:
    """At most `limit` bytes of files, the same ones each time: in the order of the hashes of their paths."""
    chosen, total = [], 0
    for file in sorted(files, key=lambda file: hashlib.sha256(file.path).digest()):
        if file.size <= limit * LARGEST_SHARE and total + file.size <= limit:
            chosen.append(file)
            total += file.size
    return chosen


def find_input(options: argparse.Namespace) -> tuple[bytes, list[File], list[str]]:
    """The folder, its files with the largest first, and what could not be looked at."""
    complaints: list[str] = []
    if options.folder is None:
        root, folders = os.fsencode(DEFAULT_ROOT), [os.fsencode(folder) for folder in DEFAULT_FOLDERS]
        folders = [folder for folder in folders if os.path.isdir(os.path.join(root, folder))]
        files = list(regular_files(root, folders, complaints, skip_caches=True))
    else:
        root = os.path.abspath(os.fsencode(options.folder))
        if not os.path.exists(root):
            raise SystemExit(f"demo: there is no folder {options.folder}")
        if not os.path.isdir(root):
            raise SystemExit(f"demo: {options.folder} is no folder")
        files = list(regular_files(root, [b""], complaints, skip_caches=False))
    if options.limit is not None:
        files = choose(files, options.limit * 1e6)
    return root, sorted(files, key=lambda file: (-file.size, file.path)), complaints


# --- progress ------------------------------------------------------------------------------------------


class Progress:
    """Bytes done: tqdm's bar on a terminal, a line per tenth elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done, self.tenth = label, total, 0, 0
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(desc=label, total=total, unit="B", unit_scale=True, dynamic_ncols=True)

    def add(self, size: int) -> None:
        self.done += size
        if self.bar is not None:
            self.bar.update(size)
        elif self.total and 10 * self.done // self.total > self.tenth:
            self.tenth = 10 * self.done // self.total
            print(f"{self.label}: {10 * self.tenth} % of {self.total / 1e6:.1f} MB", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


# --- the work, three ways ------------------------------------------------------------------------------


class SpreadRun(NamedTuple):
    results: list[Measured]
    seconds: float
    explanation: dict[str, Any]


def run_spread(root: bytes, files: list[File], slots: int, preset: int) -> SpreadRun:
    """Over the boxes of a private bus, or of the one that ``BETTERBOX_BUS`` names."""
    bus = nullcontext() if os.environ.get("BETTERBOX_BUS") else LocalCluster(slots=slots)
    with bus, deploy(Compressor, PORT, slots=slots):

        @use_box(PORT, require=slots, timeout=30)
        class Compressors(SpreadBox):
            pass

        boxes: Any = Compressors.instance()
        progress = Progress(f"{slots} slots", sum(file.size for file in files))
        began = time.monotonic()
        promise = boxes.measure(spread([file.path for file in files]), root, preset)
        results: list[Any] = [None] * len(files)
        for index, value in promise.as_completed():
            results[index] = Measured(*value)
            progress.add(files[index].size)
        seconds = time.monotonic() - began
        progress.close()
        return SpreadRun(results, seconds, promise.explain())


def serial_process(root: bytes, preset: int) -> subprocess.Popen[bytes]:
    """This program as one serial process: paths go in, results come out, a line each."""
    command = [sys.executable, os.path.abspath(__file__), "--serial-process", os.fsdecode(root), "--preset", str(preset)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def be_serial_process(root: bytes, preset: int) -> None:
    paths = sys.stdin.buffer.read().split(b"\0")
    for path in paths[:-1]:
        print(json.dumps(measure_file(os.path.join(root, path), preset)), flush=True)


def run_serial(root: bytes, files: list[File], preset: int, processes: int, label: str) -> tuple[list[Measured], float]:
    """In one process, or in several at once that each do all of it: results of the first, seconds of the slowest."""
    workers = [serial_process(root, preset) for _ in range(processes)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"".join(file.path + b"\0" for file in files))
        worker.stdin.close()
    progress = Progress(label, sum(file.size for file in files))
    assert workers[0].stdout is not None
    results = []
    for file, line in zip(files, workers[0].stdout):
        results.append(Measured(*json.loads(line)))
        progress.add(file.size)
    progress.close()
    times = [results[-1].end - results[0].begin] if results else [0.0]
    for worker in workers[1:]:
        assert worker.stdout is not None
        others = [Measured(*json.loads(line)) for line in worker.stdout]
        times.append(others[-1].end - others[0].begin if others else 0.0)
    if any([worker.wait() != 0 for worker in workers]) or len(results) != len(files):
        raise SystemExit("demo: a serial process failed (its message is above)")
    return results, max(times)


# --- the report ----------------------------------------------------------------------------------------


def greedy_makespan(seconds: Iterable[float], slots: int) -> float:
    """List scheduling: each item, in order, to the slot that is free first."""
    free = [0.0] * slots
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def digest_of(files: list[File], results: list[Measured]) -> str:
    """SHA-256 over the sorted lines ``path<space>sha256<newline>``."""
    lines = sorted(file.path + b" " + result.sha256.encode() + b"\n" for file, result in zip(files, results))
    return hashlib.sha256(b"".join(lines)).hexdigest()


def name_of(path: bytes) -> str:
    """A path as it can be printed anywhere."""
    return path.decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii").replace("\\\\", "\\")


def seats_of(explanation: dict[str, Any]) -> list[tuple[int, float]]:
    """(items, busy seconds) of each slot."""
    agents = sorted(explanation.get("agents", ()), key=lambda agent: str(agent.get("name")))
    return [
        (seat["items"], seat["busy_s"])
        for agent in agents
        for seat in sorted(agent["seats"], key=lambda seat: int(seat["slot"]))
    ]


def print_files(files: list[File], results: list[Measured]) -> None:
    # The format alone takes 60 bytes: a file of one byte "compresses" to 6000 %.
    smallest = SMALLEST_RATED if any(file.size >= SMALLEST_RATED for file in files) else 1
    ratios = sorted(
        (result.compressed / file.size, file.path, file.size, result.compressed)
        for file, result in zip(files, results)
        if file.size >= smallest
    )
    for title, rows in (("most", ratios[:10]), ("least", ratios[:-11:-1])):
        print(f"\nThe {len(rows)} {title} compressible files of {smallest:,} bytes or more (compressed size of the size)")
        for ratio, path, size, compressed in rows:
            print(f"  {100 * ratio:7.1f} %  {compressed:>10,} of {size:>11,}  {name_of(path)}")


def report(
    files: list[File], run: SpreadRun, serial_s: float, side_by_side_s: float | None, slots: int
) -> dict[str, Any]:
    """Print totals and balance; returns what goes into the JSON file."""
    size = sum(file.size for file in files)
    compressed = sum(result.compressed for result in run.results)
    digest = digest_of(files, run.results)
    print(f"\n{len(files):,} files, {size:,} bytes, compressed {compressed:,} ({100 * compressed / max(size, 1):.1f} %)")
    print(f"digest {digest}")
    print_files(files, run.results)

    makespan = greedy = 0.0
    if files:
        makespan = max(result.end for result in run.results) - min(result.begin for result in run.results)
        greedy = greedy_makespan((result.end - result.begin for result in run.results), slots)
    seats = seats_of(run.explanation)
    steals = sum(agent["steals"] for agent in run.explanation.get("agents", ()))
    retries = sum(agent["retries"] for agent in run.explanation.get("agents", ()))
    ratio = makespan / greedy if greedy else None
    speedup = serial_s / run.seconds if files and run.seconds else None
    print("\nBalance")
    for number, (items, busy) in enumerate(seats):
        print(f"  slot {number}: {items:>6,} items, busy {busy:8.3f} s")
    print(f"  steals {steals}, retries {retries}")
    print(f"  makespan {makespan:.3f} s, greedy {greedy:.3f} s" + (f": {ratio:.4f} of greedy" if ratio else ""))
    print(f"  spread {run.seconds:.3f} s, one process {serial_s:.3f} s" + (f": speed-up {speedup:.2f}" if speedup else ""))
    found: dict[str, Any] = {
        "files": len(files),
        "bytes": size,
        "compressed_bytes": compressed,
        "digest": digest,
        "items_per_slot": [items for items, _ in seats],
        "hosts": sorted({agent["host"] for agent in run.explanation.get("agents", ()) if agent["items"] > 0}),
        "makespan_over_greedy": ratio,
        "speedup": speedup,
        "busy_per_slot_s": [busy for _, busy in seats],
        "steals": steals,
        "retries": retries,
        "slots": slots,
        "spread_s": run.seconds,
        "serial_s": serial_s,
    }
    if side_by_side_s:
        limit = slots * serial_s / side_by_side_s
        print(f"  {slots} serial processes side by side {side_by_side_s:.3f} s: these cores give a speed-up of {limit:.2f}")
        found["side_by_side_s"] = side_by_side_s
        found["side_by_side_speedup"] = limit
        found["speedup_over_side_by_side"] = speedup / limit if speedup else None
    return found


def without_unreadable(
    files: list[File], results: list[Measured], complaints: list[str]
) -> tuple[list[File], list[Measured]]:
    """What could be read; the rest is complained about."""
    complaints += [f"{name_of(file.path)}: {result.error}" for file, result in zip(files, results) if result.error]
    kept = [(file, result) for file, result in zip(files, results) if not result.error]
    return [file for file, _ in kept], [result for _, result in kept]


def differences(files: list[File], spread_results: list[Measured], serial_results: list[Measured]) -> list[str]:
    return [
        name_of(file.path)
        for file, one, other in zip(files, spread_results, serial_results)
        if (one.sha256, one.compressed, one.error) != (other.sha256, other.compressed, other.error)
    ]


# --- the program ---------------------------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev demo", description="SHA-256 and LZMA-compressed size of every regular file under a folder."
    )
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="default: part of this machine's Python library")
    parser.add_argument("--json", metavar="FILE", help="write totals and balance there too")
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)), help="boxes (default: one per core)")
    parser.add_argument("--preset", type=int, default=6, choices=range(10), metavar="0-9", help="of LZMA (default: 6)")
    parser.add_argument("--limit", type=float, metavar="MB", help="take at most so much, evenly chosen (default without FOLDER: 40)")
    parser.add_argument("--side-by-side", action="store_true", help="also measure as many serial processes as slots")
    parser.add_argument("--serial-process", metavar="ROOT", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.slots < 1:
        parser.error("--slots must be 1 or more")
    if options.limit is not None and not options.limit > 0:
        parser.error("--limit must be more than 0")
    if options.folder is None and options.limit is None:
        options.limit = DEFAULT_LIMIT_MB
    return options


def write_json(path: str, found: dict[str, Any]) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
            file.write("\n")
    except OSError as error:
        raise SystemExit(f"demo: {path} cannot be written: {error.strerror}") from None


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.serial_process is not None:
        be_serial_process(os.fsencode(options.serial_process), options.preset)
        return 0
    root, files, complaints = find_input(options)
    if options.json:
        write_json(options.json, {})  # what cannot be written is said before the work, not after it
    size = sum(file.size for file in files)
    print(f"{len(files):,} files, {size / 1e6:.1f} MB under {name_of(root)}, {options.slots} slots, LZMA preset {options.preset}")
    print("The largest go first: a long item that starts last would leave the other slots idle.", flush=True)

    for file in files:  # so that neither run pays for the disk
        try:
            with open(os.path.join(root, file.path), "rb") as opened:
                opened.read()
        except OSError:
            pass
    run = run_spread(root, files, options.slots, options.preset)
    serial_results, serial_s = run_serial(root, files, options.preset, 1, "one process")
    side_by_side_s = None
    if options.side_by_side:
        _, side_by_side_s = run_serial(root, files, options.preset, options.slots, f"{options.slots} processes")

    different = differences(files, run.results, serial_results)
    kept, results = without_unreadable(files, run.results, complaints)
    found = report(kept, run._replace(results=results), serial_s, side_by_side_s, options.slots)
    found["unreadable"] = len(complaints)
    for complaint in complaints[:20]:
        print(f"  left out: {complaint}", file=sys.stderr)
    if len(complaints) > 20:
        print(f"  left out: {len(complaints) - 20} more", file=sys.stderr)
    found["matches_serial"] = not different
    if options.json:
        write_json(options.json, found)
    if different:
        print(f"\nThe serial run found something else for {len(different)} files: {', '.join(different[:5])}", file=sys.stderr)
        return 1
    print("\nThe serial run found the same.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
