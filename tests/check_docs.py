"""Checks the documentation: links resolve, files and names that it mentions exist.

``python3 tests/check_docs.py`` prints what is wrong; ``complaints()`` is for tests/sources_test.py.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("runtime", "scheduler", "worker", "simulator", "cluster", "python", "tests", "benchmarks", "examples", "docs", "cmake", "packaging")
CODE = (".h", ".cc", ".py", ".pyi")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.{<-])(?:%s)/[\w/.-]*\.(?:h|cc|py|pyi|md|bash|cmake|sh)\b" % "|".join(FOLDERS))
NAME = re.compile(r"`((?:\w+::)*\w+)(?:\(\))?`")
FENCE = re.compile(r"^(```|~~~)")


def files(*suffixes: str) -> list[pathlib.Path]:
    """Files of the repository with one of these endings, sorted."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    found += [path for path in ROOT.iterdir() if path.suffix in suffixes]
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def pages() -> list[pathlib.Path]:
    return files(".md")


def anchor(heading: str) -> str:
    """The anchor of a heading, as the usual hosts make it."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return text.replace(" ", "-")


def anchors(page: pathlib.Path) -> set[str]:
    lines = page.read_text(encoding="utf-8").splitlines()
    return {anchor(line.lstrip("#")) for line in lines if line.startswith("#")}


def without_fences(text: str) -> str:
    kept, inside = [], False
    for line in text.splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def broken_links(page: pathlib.Path) -> list[str]:
    wrong = []
    for target in LINK.findall(without_fences(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        if not linked.exists():
            wrong.append(f"{page.relative_to(ROOT)}: {target} does not exist")
        elif fragment and linked.suffix == ".md" and fragment not in anchors(linked):
            wrong.append(f"{page.relative_to(ROOT)}: {target} names no heading")
    return wrong


def missing_files(path: pathlib.Path) -> list[str]:
    """Files that a page or a comment mentions by their path and that are not there."""
    text = path.read_text(encoding="utf-8")
    return [
        f"{path.relative_to(ROOT)}: mentions {name}, which does not exist"
        for name in sorted(set(PATH.findall(text)))
        if not (ROOT / name).exists()
    ]


def words_of_code() -> set[str]:
    words: set[str] = set()
    for path in files(*CODE):
        words.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return words


def unknown_names(page: pathlib.Path, words: set[str]) -> list[str]:
    """Names in code style with a scope or brackets that occur nowhere in the code."""
    wrong = []
    for match in NAME.finditer(without_fences(page.read_text(encoding="utf-8"))):
        name = match.group(1)
        is_code = "::" in name or match.group(0).endswith("()`")
        if is_code and not all(part in words for part in name.split("::")):
            wrong.append(f"{page.relative_to(ROOT)}: no {name} in the code")
    return wrong


def complaints() -> list[str]:
    words = words_of_code()
    wrong = [line for page in pages() for line in broken_links(page) + unknown_names(page, words)]
    return wrong + [line for path in files(".md", *CODE) for line in missing_files(path)]


def main() -> int:
    found = complaints()
    for line in found:
        print(line)
    print(f"{len(pages())} pages checked, {len(found)} complaints")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
