"""The rules of the house, checked on the sources: who may include whom, who owns which dependency, how files look.

docs/architecture.md, section "Folders", says why. The build enforces part of it (cmake/options.cmake).
"""

from __future__ import annotations

import ast
import pathlib
import re
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import check_docs

ROOT = check_docs.ROOT
PRODUCT = ("runtime", "scheduler", "worker", "simulator", "cluster", "python/src")
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)
MAX_LINES = 600

# What the cores may use besides their own folder: no clock is read, nothing blocks, nothing is hashed.
VOCABULARY = {f"runtime/{name}.h" for name in "add_times check frame ids limits messages page policy printable range range_word resources socket_names time".split()}
STD_NOT_FOR_CORES = set(
    "chrono condition_variable cstdio filesystem fstream future iostream mutex random shared_mutex thread "
    "unordered_map unordered_set".split()
)

# A table whose order cannot be seen.
HASHING_WITHOUT_ORDER = {("scheduler/lookup.h", "unordered_map")}

# Dependency (as included) -> files that may. Everybody else goes through them.
OWNERS = {
    r"cereal/": r"runtime/codec\.cc",
    r"rapidjson/": r"runtime/bus_file\.cc",
    r"zmq": r"runtime/zmq_(transport|links|bounds|ends|keys)\.cc|runtime/zmq_(frames|sockets|transport)\.h",
    r"(Python\.h|pybind11/|numpy/)": r"worker/(slot\w*|template_loop)\.(cc|h)|python/src/.*",
    r"CLI/": r"(scheduler|worker)/main\.cc|simulator/command_line\.cc",
    r"spdlog/": r"scheduler/(server|sweeper|main)\.cc|worker/(agent\w*|executor|main|slot_\w+|template_loop)\.cc"
    r"|cluster/mpi_rank\.cc|runtime/log_format\.h",
    r"sqlite3": r"scheduler/journal\.cc",
    r"mpi\.h": r"cluster/mpi_shim\.c",
}


def relative(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sources(*folders: str) -> list[pathlib.Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".h", ".c", ".cc")]
    return sorted(found)


def includes(path: pathlib.Path) -> list[tuple[bool, str]]:
    """(of the project or by quotes, name) of each include."""
    return [(quote == '"', name) for quote, name in INCLUDE.findall(path.read_text(encoding="utf-8"))]


def core_files(folder: str) -> list[pathlib.Path]:
    """Sources of the targets made by betterbox_core_library in this folder, and the headers they include there."""
    text = (ROOT / folder / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.findall(r"betterbox_core_library\(\s*\w+\s+([^)]*)\)", text)
    files = {ROOT / folder / name for names in listed for name in names.split()}
    waiting = list(files)
    while waiting:
        for _, name in includes(waiting.pop()):
            header = ROOT / name
            if name.startswith(folder + "/") and header not in files:
                files.add(header)
                waiting.append(header)
    return sorted(files)


@pytest.mark.parametrize("folder", ["scheduler", "worker"])
def test_cores_include_vocabulary_and_std_only(folder: str) -> None:
    wrong = []
    files = core_files(folder)
    assert len(files) >= 4, "no core found: was betterbox_core_library renamed?"
    for path in files:
        for quoted, name in includes(path):
            own = name.startswith(folder + "/")
            allowed = own or name in VOCABULARY if quoted else "." not in name and name not in STD_NOT_FOR_CORES
            if not allowed and (relative(path), name) not in HASHING_WITHOUT_ORDER:
                wrong.append(f"{relative(path)} includes {name}")
    assert wrong == []


@pytest.mark.parametrize("folder", ["scheduler", "worker"])
def test_cores_read_no_clock(folder: str) -> None:
    asked = re.compile(r"\bmonotonic_now\s*\(|\bgetenv\s*\(|\brand\s*\(")
    assert [relative(path) for path in core_files(folder) if asked.search(path.read_text(encoding="utf-8"))] == []


# Files that look at the wall clock, and why. Those of two hosts differ, so nothing is decided by them.
WALL_CLOCK = {
    "runtime/segment_pool.cc": "how old a file in this host's own memory is",
    "worker/slot_log.cc": "stamps lines for people",
    "scheduler/server.cc": "tells its time to those who ask for the status",
    "python/betterbox/_doctor_bus.py": "compares it with this host's",
    "python/betterbox/_changeable.py": "names the module, and reads no clock",
    "python/betterbox/_allocation.py": "the batch system says when a job ends by the clock of this node",
}


def test_the_wall_clock_is_looked_at_where_it_may_be() -> None:
    asked = re.compile(r"system_clock|CLOCK_REALTIME|gettimeofday|\btime\((nullptr|NULL|0)\)|\btime\.time(_ns)?\(|\bdatetime\b")
    files = sources(*PRODUCT) + sorted((ROOT / "python" / "betterbox").glob("*.py"))
    assert {relative(path) for path in files if asked.search(path.read_text(encoding="utf-8"))} == set(WALL_CLOCK)


def test_messages_carry_spans_of_time_and_no_points() -> None:
    """A point on one host's clock means nothing on another's."""
    for name in ("messages", "deployment_messages", "relay_message", "value_messages", "page"):
        text = (ROOT / "runtime" / f"{name}.h").read_text(encoding="utf-8")
        assert not re.search(r"TimePoint|runtime/time\.h|\b\w*(deadline|until|_at)_ns\b", text), name


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("runtime", r"(scheduler|worker|simulator|python|tests|benchmarks)/"),
        ("scheduler", r"(worker|simulator|python|tests|benchmarks)/"),
        ("worker", r"(scheduler|simulator|tests|benchmarks)/"),
        ("simulator", r"(python|tests|benchmarks)/"),
        ("python/src", r"(scheduler|simulator|tests|benchmarks)/|worker/(?!(agent|slot|template_loop)\.h)"),
    ],
)
def test_folders_include_only_what_lies_below(folder: str, forbidden: str) -> None:
    wrong = [
        f"{relative(path)} includes {name}"
        for path in sources(folder)
        for quoted, name in includes(path)
        if quoted and re.match(forbidden, name)
    ]
    assert wrong == []


@pytest.mark.parametrize("dependency", OWNERS)
def test_each_dependency_stays_with_its_owner(dependency: str) -> None:
    wrong = [
        f"{relative(path)} includes {name}"
        for path in sources(*PRODUCT)
        for _, name in includes(path)
        if re.match(dependency, name) and not re.fullmatch(OWNERS[dependency], relative(path))
    ]
    assert wrong == []


def test_the_interpreter_lock_is_taken_in_a_way_that_never_unwinds() -> None:
    for path in sources("python/src", "worker", "cluster"):
        if path.name != "py_ref.h":
            found = re.findall(r"gil_scoped_\w+|PyEval_RestoreThread|PyGILState_Ensure", path.read_text())
            assert not found, f"{relative(path)}: GilRelease and GilHold of python/src/py_ref.h instead of {found}"


def test_includes_are_rooted_at_the_repository() -> None:
    """But that of mpi_shim.c, which is compiled where it is installed."""
    wrong = [
        f"{relative(path)} includes {name}"
        for path in sources(*PRODUCT, "tests", "benchmarks")
        for quoted, name in includes(path)
        if quoted and path.suffix != ".c" and not (ROOT / name).exists() and not (path.parts[-3] == "unit" and (path.parent / name).exists())
    ]
    assert wrong == []


def test_headers_open_with_their_job_and_pragma_once() -> None:
    wrong = []
    for path in sources(*PRODUCT, "tests", "benchmarks"):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".h" and "#pragma once" not in text:
            wrong.append(f"{relative(path)} has no #pragma once")
        if path.suffix == ".h" and not text.startswith("//"):
            wrong.append(f"{relative(path)} does not open with a comment")
    assert wrong == []


def test_python_modules_open_with_their_job() -> None:
    wrong = [
        relative(path)
        for path in sorted((ROOT / "python" / "betterbox").rglob("*.py"))
        if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert wrong == []


def test_every_source_is_built() -> None:
    wrong = []
    listings = [path for path in check_docs.files(".txt") if path.name == "CMakeLists.txt"]
    text = "\n".join(listing.read_text(encoding="utf-8") for listing in listings)
    for path in sources(*PRODUCT, "tests", "benchmarks"):
        if path.suffix not in (".c", ".cc"):
            continue
        if not re.search(rf"\b{re.escape(path.stem)}\b", text):
            wrong.append(f"{relative(path)} is in no CMakeLists.txt")
    assert wrong == []


def everything_written() -> list[pathlib.Path]:
    files = check_docs.files(".h", ".c", ".cc", ".py", ".pyi", ".md", ".txt", ".cmake", ".bash", ".sh", ".toml")
    return [*files, ROOT / "dev", ROOT / ".ci" / "run"]


def test_no_file_is_too_long() -> None:
    long = []
    for path in everything_written():
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_LINES and path.suffix != ".md":
            long.append(f"{relative(path)} has {lines} lines")
    assert long == [], f"a file has one job and at most {MAX_LINES} lines"


def test_nothing_is_left_for_later_and_no_script_names_a_host() -> None:
    words = ["TO" + "DO", "FIX" + "ME", "XX" + "X"]
    marks = re.compile(r"\b(" + "|".join(words) + r")\b|https?://(?!127\.0\.0\.1|localhost|www\.apache\.org/)")
    wrong = []
    for path in everything_written():
        if path == pathlib.Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if marks.search(line):
                wrong.append(f"{relative(path)}:{number}: {line.strip()}")
    assert wrong == []


def test_native_tests_do_not_sleep() -> None:
    asleep = re.compile(r"\b(sleep_for|sleep_until|usleep|nanosleep|sleep)\s*\(")
    wrong = []
    for path in sources("tests"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            looks_for_something = any(re.search(r"\bwhile \(", near) for near in lines[max(0, number - 3) : number + 1])
            if asleep.search(line) and not looks_for_something:
                wrong.append(f"{relative(path)}:{number + 1}")
    assert wrong == [], "a test waits for the thing, not for time: at least in a loop that looks for it"


class SleepFinder(ast.NodeVisitor):
    """Calls of sleep in the body of a test itself, outside of a loop that looks for something.

    What a box or an item does in its own function may take time, and a child process may live for long (LIFE seconds
    or more: until it is killed).
    """

    LIFE = 30

    def __init__(self) -> None:
        self.depth = 0
        self.lines: list[int] = []

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if self.depth == 0 and not node.name.startswith("test_"):
            return
        self.depth += 1
        if self.depth == 1:
            self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        pass

    def visit_While(self, node: ast.While) -> None:
        pass

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        seconds = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else 0
        if self.depth == 1 and name == "sleep" and not (isinstance(seconds, int) and seconds >= self.LIFE):
            self.lines.append(node.lineno)
        self.generic_visit(node)


def test_tests_in_python_do_not_sleep_to_wait() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        finder = SleepFinder()
        finder.visit(ast.parse(path.read_text(encoding="utf-8")))
        wrong += [f"{relative(path)}:{line}" for line in finder.lines]
    assert wrong == [], "a test waits for the thing, not for time"


def test_the_documentation_names_what_is_there() -> None:
    assert check_docs.complaints() == []
