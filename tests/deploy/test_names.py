"""Nothing in `deploy/` speaks of an option, a variable or a file that there is not."""

import re
import shlex
from pathlib import Path

import pytest

from launcher.options import Options
from tests.deploy.files import DEPLOY, OF_WAN, launched, shown_commands
from tests.docs.markdown import DOCS
from tests.running_server import ROOT

FILES = [path for path in DEPLOY.rglob("*") if path.is_file()]
_VARIABLES = {f"WAN_{name.upper()}" for name in Options.__struct_fields__} | OF_WAN


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_variable_is_one_that_something_reads(path: Path) -> None:
    """Seen to fail with `WAN_MODEL` for `WAN_MODEL_PATH`."""
    assert set(re.findall(r"\bWAN_[A-Z_]*[A-Z]", path.read_text())) <= _VARIABLES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_file_of_the_project_that_is_named_is_there(path: Path) -> None:
    for name in re.findall(r"\b(?:docs|deploy|tests|launcher)/[\w./-]*\w", path.read_text()):
        assert (ROOT / name).exists(), name


def test_what_the_page_on_machines_starts_can_be_started() -> None:
    started = [line for line in shown_commands(DOCS / "scaling.md") if "launch.py" in line]
    roles = {launched(shlex.split(line), {}).role for line in started}
    assert roles == {"server", "group", "front"}
