"""Which original folders are opened, and how others are refused."""

import shutil
from pathlib import Path

import pytest

from ranks.model_files.inspection import inspect
from ranks.model_files.model_choice import ModelChoice
from ranks.model_files.model_report import ModelFault, ModelReport
from tests.ranks.model_files.damages import DAMAGES, Damage


@pytest.fixture
def model(original_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original_folder, tmp_path / "model"))


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_bad_folder_is_refused_in_one_sentence(model: Path, damage: Damage, message: str) -> None:
    damage(model)
    fault = inspect(ModelChoice(model))
    assert isinstance(fault, ModelFault)
    assert message in fault.message
    assert str(model) in fault.message
    assert "\n" not in fault.message
    assert not fault.may_appear


def test_what_lies_beside_the_model_is_ignored_with_a_warning(model: Path) -> None:
    shutil.copy(next(model.glob("*-00001-*.safetensors")), model / "older.safetensors")
    report = inspect(ModelChoice(model))
    assert isinstance(report, ModelReport)
    assert report.warnings == ["transformer: older.safetensors"]
