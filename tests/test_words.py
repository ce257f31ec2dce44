"""Plain English, and one name for one thing, in code, messages and documents."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = ("broker", "ranks", "http_front", "launcher")
SHARED_MODULE_NAMES = {"config", "errors", "__main__", "__init__"}

# Turns of phrase that make a native reader read a sentence twice.
ODD = re.compile(
    r"\b(whoever|somebody|nobody|be it|shall|mend(?:s|ed|ing)?|(?:is|are|was|were) told|"
    r"the other's|beside that|one's own|as a rule there)\b",
    re.IGNORECASE,
)
WRITTEN = (".py", ".md", ".js", ".html", ".yaml", ".service", ".env", ".sbatch", "Makefile")
FOLDERS = (*PROCESSES, "tests", "deploy", "docs", ".ci")


def written_files() -> list[Path]:
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    files = [*ROOT.glob("*.md"), ROOT / "launch.py", ROOT / "Makefile", *inside]
    return sorted(p for p in files if p.name.endswith(WRITTEN) and p != Path(__file__))


def product_files() -> list[Path]:
    return [ROOT / "launch.py", *(p for name in PROCESSES for p in (ROOT / name).rglob("*.py"))]


@pytest.mark.parametrize("path", written_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_are_plain(path: Path) -> None:
    lines = path.read_text().splitlines()
    found = [f"{number}: {line}" for number, line in enumerate(lines, 1) if ODD.search(line)]
    assert not found


def test_no_two_modules_have_one_name() -> None:
    places = defaultdict(list)
    for path in product_files():
        places[path.stem].append(str(path.relative_to(ROOT)))
    doubled = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert {name: doubled[name] for name in doubled.keys() - SHARED_MODULE_NAMES} == {}


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
