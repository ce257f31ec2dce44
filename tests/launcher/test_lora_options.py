"""`--lora` and `--loras`: their forms, and what a start makes of the files."""

from pathlib import Path

import pytest
from torch import Tensor

from launcher.command_line import parse_command
from launcher.lora_check import check_loras, folder_for, merged_lora
from launcher.lora_options import absolute
from launcher.options import Options, OptionsError
from launcher.preflight import StartError, UnfitModelError
from ranks.demo.build import make_demo_model
from ranks.loras.lora_files import profile_with
from ranks.model_files.model_choice import ModelChoice
from ranks.model_files.opened_model import open_model
from ranks.model_files.profiles import profile_of
from tests.ranks.loras.lora_forms import stored_weights, write_comfy, write_lightx2v


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "demo"
    make_demo_model(folder)
    return folder


@pytest.fixture(scope="module")
def weights(model: Path) -> dict[str, Tensor]:
    return stored_weights(open_model(model).components["transformer"])


@pytest.mark.parametrize(
    "argv",
    [
        ["--lora", "a=x.safetensors", "--lora", "b=high.safetensors,low.safetensors@0.5"],
        ["--lora", "a=x.safetensors,b=high.safetensors,low.safetensors@0.5"],
    ],
)
def test_several_loras_and_pairs_are_told_apart(argv: list[str]) -> None:
    options = parse_command(argv, {}).options
    assert options.lora == ("a=x.safetensors", "b=high.safetensors,low.safetensors@0.5")
    first, second = map(merged_lora, options.lora)
    assert ([Path(p).name for p in first.paths], first.strength) == (["x.safetensors"], 1.0)
    assert [Path(path).name for path in second.paths] == ["high.safetensors", "low.safetensors"]
    assert second.strength == 0.5
    assert merged_lora(absolute(options.lora[1])) == second


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x.safetensors", "expected NAME=FILE or NAME=HIGH,LOW"),
        ("a/b=x", "expected NAME=FILE"),
        ("a=", "expected NAME=FILE"),
        ("a=x@11", "from -10 to 10"),
        ("a=x@nan", "from -10 to 10"),
        ("a=x@strong", "from -10 to 10"),
        ("a=x,y,z", "expected NAME=FILE or NAME=HIGH,LOW"),
        ("a=x,a=y", "lora names a twice"),
    ],
)
def test_another_form_is_refused(entry: str, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        parse_command(["--lora", entry], {})


def test_a_lora_is_for_one_model() -> None:
    with pytest.raises(OptionsError, match="lora changes one model, but the server has 2"):
        parse_command(["--lora", "a=x", "--model", "cat=/a", "--model", "dog=/b"], {})


def test_each_model_has_the_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    assert folder_for(str(tmp_path), "cat") == tmp_path / "cat"
    assert folder_for(str(tmp_path), "dog") == tmp_path
    with pytest.raises(StartError, match="is no folder; name one with"):
        folder_for(str(tmp_path / "none"), "cat")


def test_a_start_names_what_it_leaves_out_and_refuses_what_it_cannot_merge(
    model: Path, weights: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    write_comfy(folder / "film.safetensors", weights)
    (folder / "broken.safetensors").write_bytes(b"<html>")
    path = tmp_path / "light.safetensors"
    write_lightx2v(path, weights)
    options = Options(demo=True, loras=str(folder), lora=(f"light={path}@0.5",))
    report = check_loras(options, "demo", ModelChoice(model))
    assert [lora.name for lora in report.offered] == ["film"]
    assert "broken.safetensors" in caplog.text
    profile = profile_of(open_model(model), "demo")
    merged = profile_with(profile, report.offered, report.merged)
    assert merged.content_hash != profile.content_hash
    assert [(lora.name, lora.strength) for lora in merged.merged_loras] == [("light", 0.5)]
    assert profile_with(profile, report.offered, ()).content_hash == profile.content_hash
    bad = Options(demo=True, lora=(f"bad={folder / 'broken.safetensors'}",))
    with pytest.raises(UnfitModelError, match=r"--lora: .*broken\.safetensors"):
        check_loras(bad, "demo", ModelChoice(model))
