"""What leaves the tree: the module shows one name, wheels need only the C library, recipes fit the package."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import betterbox
import pytest
from betterbox import _core

ROOT = Path(__file__).resolve().parent.parent
PACKAGING = ROOT / "packaging"

needs_binutils = pytest.mark.skipif(
    shutil.which("readelf") is None or shutil.which("nm") is None, reason="readelf and nm are needed (Debian: binutils)"
)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheel_check", PACKAGING / "wheel" / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- what is linked -----------------------------------------------------------------------------------------


@needs_binutils
def test_the_module_shows_its_entry_and_nothing_of_what_it_links(check: ModuleType) -> None:
    assert check.exported(Path(_core.__file__)) == ["PyInit__core"]


@needs_binutils
def test_a_wheel_of_what_this_system_has_is_told_from_one_that_stands_alone(check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = Path(betterbox.__file__).parent
    wheel = tmp_path / "betterbox-0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(_core.__file__, f"betterbox/{Path(_core.__file__).name}")
        archive.write(package / "_bin" / "betterbox-scheduler", "betterbox/_bin/betterbox-scheduler")
    assert check.main(wheel) == 1
    said = capsys.readouterr().out
    assert "betterbox/_bin/betterbox-worker is missing" in said and "needs libzmq.so.5" in said


WHEELS = sorted((ROOT / "build" / "wheels").glob("*.whl"))


@needs_binutils
@pytest.mark.skipif(not WHEELS, reason="build/wheels is empty: ./dev wheel makes wheels")
@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name)
def test_a_wheel_needs_only_the_c_library(wheel: Path, check: ModuleType) -> None:
    assert check.main(wheel) == 0
    assert re.search(r"-manylinux_\d+_\d+_\w+\.whl$", wheel.name)


@pytest.mark.skipif(not WHEELS, reason="build/wheels is empty: ./dev wheel makes wheels")
@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name)
def test_a_wheel_holds_what_a_package_has(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
        entry = archive.read(next(name for name in names if name.endswith(".dist-info/entry_points.txt"))).decode()
    assert {"betterbox/py.typed", "betterbox/_core.pyi", "betterbox/__init__.py", "betterbox/_shim/mpi_shim.c"} <= names
    assert "Requires-Dist: cloudpickle" in metadata and "Requires-Python: >=3.10" in metadata
    assert "betterbox = betterbox.__main__:main" in entry
    licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert {"LICENSE", "VERSIONS", "libsodium-LICENSE", "zeromq3-COPYING.LESSER", "spdlog-LICENSE", "libcereal-dev-copyright"} <= licences
    assert not [name for name in names if re.search(r"betterbox-(mpi|sim|python)$|/tests?/", name)]


def test_pyzmq_and_the_package_live_in_one_process() -> None:
    pytest.importorskip("zmq")
    program = """
import zmq, betterbox
def ask():
    context = zmq.Context()
    a, b = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    b.connect(f"tcp://127.0.0.1:{a.bind_to_random_port('tcp://127.0.0.1')}")
    a.send(b"x")
    got = b.recv()
    context.destroy()
    return got
with betterbox.LocalCluster(slots=1):
    print(ask(), betterbox.map(abs, range(-9, 1)).compute(sum), ask())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("b'x' 45 b'x'\n", 0), done.stderr


# --- recipes ------------------------------------------------------------------------------------------------


def test_all_recipes_are_of_this_version() -> None:
    version = betterbox.__version__
    assert f'version = "{version}"' in text("pyproject.toml")
    assert f"VERSION {version} " in text("CMakeLists.txt")
    assert (PACKAGING / "modulefiles" / "betterbox" / version).is_file()
    assert f"betterbox-{version}.tar.gz" in text("packaging/spack/packages/py_betterbox/package.py")


def test_the_recipe_for_spack_has_what_the_build_asks_for() -> None:
    recipe = text("packaging/spack/packages/py_betterbox/package.py")
    ast.parse(recipe)
    wanted = re.findall(r'"(scikit-build-core|pybind11)>=([\d.]+)"', text("pyproject.toml"))
    wanted += re.findall(r'"(cloudpickle|numpy)>=([\d.]+)"', text("pyproject.toml"))
    assert {f'"py-{name}@{least}:"' for name, least in wanted} <= set(re.findall(r'"py-[\w.@-]+:"', recipe))
    for name in ("cereal", "cli11", "rapidjson", "spdlog", "libzmq"):
        assert re.search(rf'depends_on\("{name}\b', recipe)


def test_the_image_is_made_of_wheels() -> None:
    definition = text("packaging/apptainer/betterbox.def")
    sections = re.findall(r"^%(\w+)", definition, re.MULTILINE)
    assert {"files", "post", "environment", "runscript", "test"} <= set(sections)
    post = definition.split("%post", 1)[1].split("%environment", 1)[0]
    assert subprocess.run(["sh", "-n"], input=post, text=True).returncode == 0


@pytest.mark.parametrize("command", ["/usr/lib/modulecmd.tcl", "/usr/share/lmod/lmod/libexec/lmod"])
def test_the_module_file_brings_the_program_or_says_what_is_missing(command: str, tmp_path: Path) -> None:
    if not os.path.exists(command):
        pytest.skip("it is not installed (Debian: environment-modules, lmod)")

    def module(**env: str) -> str:
        line = f'eval "$({command} bash load betterbox/{betterbox.__version__})"; echo "got $(command -v betterbox) ${{BETTERBOX_ROOT-}}"'
        full = {**os.environ, "MODULEPATH": str(PACKAGING / "modulefiles"), "PATH": "/usr/bin:/bin", **env}
        done = subprocess.run(["bash", "-c", line], env=full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        return done.stdout

    missing = module(BETTERBOX_PREFIX=str(tmp_path))
    assert f"there is no {tmp_path}/bin/betterbox" in missing and "got  \n" in missing
    program = tmp_path / "bin" / "betterbox"
    program.parent.mkdir()
    program.touch(0o755)
    assert module(BETTERBOX_PREFIX=str(tmp_path)) == f"got {program} {tmp_path}\n"
