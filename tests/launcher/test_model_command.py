import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.model_command import main, rows
from ranks.model_files.model_report import ModelFault, ModelReport, decode_report
from tests.stub_model import make_stub_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_stub_model(tmp_path / "model")


def test_the_table_of_cards_says_what_fits_which(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(model), "--cards"]) == 0
    rows = capsys.readouterr().out.splitlines()[-20:]
    assert rows[0].split()[:3] == ["1", "x", "24"]
    assert rows[-1] == "8  x 80  832*480: fits; 1280*720: fits"


def test_the_table_and_the_json_show_what_a_model_is_and_needs(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(model), "--json"]) == 0
    report = decode_report(capsys.readouterr().out)
    assert isinstance(report, ModelReport)
    assert report.weight_bytes[2] < report.weight_bytes[1]
    assert report.jobs[1].sharded_bytes == report.jobs[1].plain_bytes > report.weight_bytes[1]
    assert report.weight_bytes[8] < report.jobs[8].sharded_bytes < report.jobs[8].plain_bytes
    assert report.devices is not None
    assert report.devices.host_bytes > 0
    lines = list(rows(report))
    assert lines[0] == f"wan2.1-i2v, diffusers layout: {model}"
    assert lines[1] == "attention heads: 40"
    (text_encoder,) = [line for line in lines if line.startswith("text_encoder ")]
    assert text_encoder.split()[-2:] == ["F32", str(model / "text_encoder")]
    assert any(line.startswith(f"this machine: {report.devices.description}") for line in lines)
    assert [line.split()[0] for line in lines[-4:]] == ["1", "2", "4", "8"]


def test_a_model_that_cannot_be_served_is_an_error(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "vae" / "config.json").unlink()
    assert main(["inspect", str(model)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"cannot be served: model folder {model} is incomplete; missing: vae/")
    assert main(["inspect", str(model), "--json"]) == 1
    assert isinstance(decode_report(capsys.readouterr().out), ModelFault)


def test_wan_has_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launcher.wan", "model", "inspect", str(tmp_path), "--json"],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["may_appear"]
