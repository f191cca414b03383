"""What a wheel links: ``check.py WHEEL`` prints it as a table, and fails if it is more than the C library.

Needs readelf and nm (Debian: binutils).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

C_LIBRARY = re.compile(r"(libc|libm|libpthread|libdl|librt)\.so\.\d+|ld-linux[\w.-]*\.so\.\d+")
PROGRAMS = {"betterbox/_bin/betterbox-scheduler", "betterbox/_bin/betterbox-worker"}


def said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed(file: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.*)\]", said("readelf", "-d", str(file)))


def exported(file: Path) -> list[str]:
    """Names that others could meet."""
    lines = said("nm", "-D", "--defined-only", "--format=posix", str(file)).splitlines()
    return [line.split()[0] for line in lines]


def newest_glibc(file: Path) -> str:
    versions = re.findall(r"\bGLIBC_(\d+)\.(\d+)", said("readelf", "-V", str(file)))
    return ".".join(map(str, max((int(major), int(minor)) for major, minor in versions)))


def faults(name: str, file: Path, mode: int) -> list[str]:
    wrong = [f"needs {library}" for library in needed(file) if not C_LIBRARY.fullmatch(library)]
    wrong += [f"has {tag}" for tag in re.findall(r"\((RPATH|RUNPATH|TEXTREL)\)", said("readelf", "-d", str(file)))]
    others = [symbol for symbol in exported(file) if symbol != "PyInit__core"]
    if name not in PROGRAMS and others:
        wrong.append(f"exports {len(others)} names besides PyInit__core, such as {others[0]}")
    if any(re.match(r"zmq_|sodium_|crypto_", symbol) for symbol in others):
        wrong.append("exports a library's names")
    if name in PROGRAMS and not mode & 0o111:
        wrong.append("is not executable")
    return wrong


def main(wheel: Path) -> int:
    bad = 0
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        missing = PROGRAMS - set(archive.namelist())
        for name in sorted(missing):
            print(f"  {name} is missing")
        for entry in archive.infolist():
            if entry.is_dir() or not (entry.filename.endswith(".so") or "/_bin/" in entry.filename):
                continue
            file = Path(archive.extract(entry, folder))
            wrong = faults(entry.filename, file, entry.external_attr >> 16)
            print(f"  {entry.filename:<54} {entry.file_size / 1e6:5.1f} MB  glibc {newest_glibc(file):<5} {' '.join(needed(file))}")
            for fault in wrong:
                print(f"    {fault}")
            bad += len(wrong)
        return 1 if bad or missing else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
