"""What a restart cannot help ends the launcher at once, with an exit code that says so."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from broker.journal.tables import SCHEMA_VERSION
from broker.process.child import UNFIT_EXIT_CODE
from tests.stub_model import make_stub_model, set_fields

LIMIT_S = 60.0
ROOT = Path(__file__).resolve().parents[2]


def launch(state_dir: Path, model: Path, *flags: str) -> str:
    """Run a launcher that must give up; return what it wrote."""
    command = [sys.executable, "launch.py", "--device", "cpu", "--port", "0", "--nproc", "2"]
    options = ("--state-dir", str(state_dir), "--model-path", str(model))
    done = subprocess.run(
        [*command, *options, *flags],
        cwd=ROOT,
        env=os.environ,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == UNFIT_EXIT_CODE, done.stderr
    return done.stderr


def write_journal(state_dir: Path, version: int) -> None:
    state_dir.mkdir()
    with apsw.Connection(str(state_dir / "jobs.sqlite3")) as journal:
        journal.execute("CREATE TABLE later (x)")
        journal.pragma("user_version", version)


def test_a_downgrade_is_refused_at_once(tmp_path: Path) -> None:
    write_journal(tmp_path / "state", SCHEMA_VERSION + 1)
    log = launch(tmp_path / "state", make_stub_model(tmp_path / "model"))
    assert log.count(f"has schema {SCHEMA_VERSION + 1}, this version knows up to") == 1
    assert "start that version, or put back the backup made before the upgrade" in log
    assert log.splitlines()[-1].endswith("stopped: broker cannot run: ended with exit code 78")


def test_a_damaged_journal_ends_the_launcher_at_once(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "jobs.sqlite3").write_bytes(b"nothing of the kind" * 1000)
    log = launch(tmp_path / "state", make_stub_model(tmp_path / "model"))
    assert log.count("is damaged (file is not a database)") == 1


def test_weights_that_do_not_fit_end_the_launcher_at_once(tmp_path: Path) -> None:
    model = make_stub_model(tmp_path / "model")
    set_fields(model / "vae" / "config.json", dim_mult=[1], temperal_downsample=[], base_dim=8)
    log = launch(tmp_path / "state", model)
    last = log.splitlines()[-1]
    assert "vae: encoder.mid_block.resnets.0.norm1.gamma has the shape [32, 1, 1, 1]" in last
    assert "broker" not in log
    assert "Traceback" not in log


def test_a_model_of_another_kind_starts_no_process(tmp_path: Path) -> None:
    model = make_stub_model(tmp_path / "model")
    set_fields(model / "model_index.json", _class_name="WanVACEPipeline")
    log = launch(tmp_path / "state", model)
    assert log.splitlines()[-1].startswith(f"launch.py: model folder {model} holds Wan VACE;")
    assert "broker" not in log


def test_a_model_folder_that_may_appear_later_is_not_final(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
    with pytest.raises(AssertionError, match="does not exist"):
        launch(tmp_path / "state", tmp_path / "model")
