"""Every option, variable and file that `deploy/` names exists."""

import re
import shlex
from pathlib import Path

import pytest

from launcher.options import Options
from tests.deploy.files import CLIENT_VARIABLES, DEPLOY, launched, shown_commands
from tests.docs.markdown import DOCS
from tests.running_server import ROOT

FILES = [path for path in DEPLOY.rglob("*") if path.is_file()]
_VARIABLES = {f"WAN_{name.upper()}" for name in Options.__struct_fields__} | CLIENT_VARIABLES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_variable_exists(path: Path) -> None:
    assert set(re.findall(r"\bWAN_[A-Z_]*[A-Z]", path.read_text())) <= _VARIABLES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_file_that_is_named_exists(path: Path) -> None:
    for name in re.findall(r"\b(?:docs|deploy|tests|launcher)/[\w./-]*\w", path.read_text()):
        assert (ROOT / name).exists(), name


def test_the_commands_of_the_page_on_scaling_are_valid() -> None:
    started = [line for line in shown_commands(DOCS / "scaling.md") if "launch.py" in line]
    roles = {launched(shlex.split(line), {}).role for line in started}
    assert roles == {"server", "group", "front"}
