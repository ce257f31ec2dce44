"""What is no model that can be served ends the launcher with one sentence, before any process."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker.process.child import UNFIT_EXIT_CODE
from launcher.doctor.checks import model_findings
from launcher.model_check import inspect_model
from launcher.options import Options
from launcher.preflight import Folders
from ranks.demo.build import make_demo_model
from ranks.demo.original_layout import write_original_layout
from ranks.model_files.model_choice import ModelChoice
from ranks.model_files.quantization import Quantize
from tests.ranks.model_files.damages import DAMAGES

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "diffusers"
    make_demo_model(folder)
    return folder


@pytest.fixture(scope="module")
def original(demo: Path) -> Path:
    folder = demo.parent / "original"
    write_original_layout(demo, folder)
    return folder


def refusal(state: Path, model: Path, *options: str, exit_code: int = UNFIT_EXIT_CODE) -> str:
    """Return the one line with which the launcher gives up."""
    command = [sys.executable, "launch.py", "--device", "cpu", "--port", "0", "--nproc", "2"]
    done = subprocess.run(
        [*command, "--state-dir", str(state), "--model-path", str(model), *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr
    *earlier, last = done.stderr.splitlines()
    assert not [line for line in earlier if " INFO launcher " not in line], done.stderr
    assert last.startswith("launch.py: ")
    assert not (state / "jobs.sqlite3").exists()  # no broker has run
    return last


@pytest.mark.parametrize("name", ["scaled fp8", "pickle with a class", "truncated shard"])
def test_a_bad_model_is_refused_before_anything_starts(
    original: Path, tmp_path: Path, name: str
) -> None:
    model = Path(shutil.copytree(original, tmp_path / "model"))
    damage, message = DAMAGES[name]
    damage(model)
    used_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    last = refusal(tmp_path / "state", model)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert message in last
    # Of processor time: other tests slow this one down.
    assert used.ru_utime + used.ru_stime - used_before.ru_utime - used_before.ru_stime < 5.0


@pytest.mark.parametrize("name", ["scaled fp8", "T2V", "truncated .pth"])
def test_a_check_names_what_a_start_names(original: Path, tmp_path: Path, name: str) -> None:
    model = Path(shutil.copytree(original, tmp_path / "model"))
    damage, message = DAMAGES[name]
    damage(model)
    options = Options(model_path=(str(model),), nproc=2)
    (finding,) = model_findings(options, Folders.under(str(tmp_path)))
    assert finding.level == "error"
    assert message in finding.message


def test_a_check_says_in_which_form_a_model_is_quantized(demo: Path, tmp_path: Path) -> None:
    options = Options(demo=True, device="cpu", nproc=2, quantize="int8")
    folders = Folders.under(str(tmp_path))
    place = folders.model(options.models[0])
    place.symlink_to(demo)
    complete, form = model_findings(options, folders)
    assert (complete.level, form.level) == ("ok", "ok")
    assert form.message == "the transformer's blocks multiply in int8"
    plain, quantized = (
        inspect_model(ModelChoice(demo, quantize=wanted)) for wanted in (None, Quantize("int8"))
    )
    assert (plain.profile.quantization, quantized.profile.quantization) == (None, "int8")
    assert plain.profile.content_hash != quantized.profile.content_hash
    assert plain.weight_bytes[1] > quantized.weight_bytes[1]


def test_a_link_loop_and_an_empty_folder_may_be_repaired_while_the_service_waits(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    last = refusal(tmp_path / "state", tmp_path / "a", exit_code=1)
    assert f"model folder {tmp_path / 'a'} does not exist" in last
    (tmp_path / "empty").mkdir()
    last = refusal(tmp_path / "state", tmp_path / "empty", exit_code=1)
    assert f"model folder {tmp_path / 'empty'} is empty" in last
