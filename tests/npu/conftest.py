"""The stand-in NPU, and groups of ranks on it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from torch import Tensor

from tests.npu.build import NoCompilerError, build
from tests.npu.host import Host
from tests.npu.stand_in import StandIn
from tests.ranks import test_combinations
from tests.ranks.conftest import demo_folder, draw_image
from tests.ranks.rank_group import RankGroup
from tests.ranks.reference import load_reference, reference_frames
from tests.running_server import ROOT, RunningServer
from tests.torch_npu_wheel import function_source, native_operators, open_wheel

__all__ = ["demo_folder"]

SERVER = ("launch.py", "--device", "npu", "--groups", "2", "--nproc", "2", "--port", "0")
CHECK = ("launch.py", "--check", "--device", "npu", "--nproc", "2", "--port", "0")

SMALL_MIB = 80
"""Memory of the devices where the admission of jobs is under test."""

FLOAT32 = "tests.npu.seeds:float32"
OLDER_CANN = "tests.npu.seeds:older_cann"

# Shorter: 105 tokens, which no layout can share evenly, and six steps. Attention is computed at
# steps 1 and 3, and kept for steps 2 and 4.
SPEC = msgspec.structs.replace(
    test_combinations.SPEC,
    num_frames=8,
    infer_steps=6,
    start_step=1,
    attentioncache_interval=2,
    end_step=5,
)

REPLACED = [
    ("torch_npu/_compat/distributed.py", "_new_process_group_helper"),
    ("torch_npu/distributed/distributed_c10d.py", "_batch_isend_irecv"),
]
"""Functions of torch_npu on the ranks' way that are Python, so that the real ones can be run."""


@pytest.fixture(scope="session", autouse=True)
def started_early(request: pytest.FixtureRequest) -> None:
    """Start what a test waits for later; most of its start is imports, on one core each."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = {name for item in items for name in item.fixturenames}
    for name in ("building", "demo_folder", "stock_frames", "server_process", "check_process"):
        if name in wanted:
            request.getfixturevalue(name)


@pytest.fixture(scope="session")
def building() -> Iterator["Future[Path]"]:
    """The compiling of the stand-in, where that has not been done."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor.submit(build)


@pytest.fixture(scope="session")
def stock_frames(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Tensor:
    """The frames of the stock pipeline: computed on the CPU, while the stand-in is compiled."""
    image = tmp_path_factory.mktemp("stock") / "sample.png"
    draw_image(image)
    return reference_frames(load_reference(demo_folder), SPEC, image)


@pytest.fixture(scope="session")
def npu(tmp_path_factory: pytest.TempPathFactory, building: "Future[Path]") -> StandIn:
    """The stand-in, compiled."""
    folder = tmp_path_factory.mktemp("npu")
    with open_wheel() as wheel:
        operators = folder / "operators"
        operators.write_text("\n".join(sorted(native_operators(wheel))))
        functions = folder / "functions.py"
        functions.write_text("\n\n".join(function_source(wheel, *place) for place in REPLACED))
    try:
        library = building.result()
    except NoCompilerError as error:
        pytest.skip(str(error))
    log = folder / "log"
    log.mkdir()
    return StandIn(library=library, operators=operators, functions=functions, log=log)


@pytest.fixture(scope="session")
def server_process(
    tmp_path_factory: pytest.TempPathFactory, demo_folder: Path, npu: StandIn
) -> Iterator[RunningServer]:
    """Two groups of two ranks, as an operator starts them; they need not be ready yet."""
    state_dir = tmp_path_factory.mktemp("npu-server") / "state"
    model = ("--model-path", str(demo_folder))
    environment = npu.environment(devices=4)
    server = RunningServer(state_dir, *model, command=SERVER, environment=environment)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="session")
def check_process(
    tmp_path_factory: pytest.TempPathFactory, demo_folder: Path, npu: StandIn
) -> Iterator["subprocess.Popen[str]"]:
    """`--check` of two devices."""
    state_dir = tmp_path_factory.mktemp("npu-check") / "state"
    folders = ("--model-path", str(demo_folder), "--state-dir", str(state_dir))
    with subprocess.Popen(
        [sys.executable, *CHECK, *folders],
        cwd=ROOT,
        env=os.environ | npu.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="session")
def host(npu: StandIn) -> Iterator[Host]:
    """A process from which tests fork; its devices are small."""
    with Host(npu.environment(capacity_mib=SMALL_MIB)) as host:
        yield host


@pytest.fixture(scope="session")
def one_rank(
    tmp_path_factory: pytest.TempPathFactory, host: Host, demo_folder: Path
) -> Iterator[RankGroup]:
    """One rank in the dtypes of an NPU."""
    yield from _group(tmp_path_factory, demo_folder, host, world_size=1)


@pytest.fixture(scope="session")
def two_ranks(
    tmp_path_factory: pytest.TempPathFactory, host: Host, demo_folder: Path
) -> Iterator[RankGroup]:
    """Two ranks in the dtypes of an NPU, with an older runtime."""
    yield from _group(tmp_path_factory, demo_folder, host, world_size=2, patch=OLDER_CANN)


@pytest.fixture(scope="session")
def two_exact_ranks(
    tmp_path_factory: pytest.TempPathFactory, host: Host, demo_folder: Path
) -> Iterator[RankGroup]:
    """Two ranks that compute in float32."""
    yield from _group(tmp_path_factory, demo_folder, host, world_size=2, patch=FLOAT32)


@pytest.fixture(scope="session")
def eight_exact_ranks(
    tmp_path_factory: pytest.TempPathFactory, host: Host, demo_folder: Path
) -> Iterator[RankGroup]:
    """Eight ranks that compute in float32."""
    yield from _group(tmp_path_factory, demo_folder, host, world_size=8, patch=FLOAT32)


@pytest.fixture(scope="session")
def int8_rank(
    tmp_path_factory: pytest.TempPathFactory, host: Host, demo_folder: Path
) -> Iterator[RankGroup]:
    """One rank in the dtypes of an NPU, whose transformer multiplies in int8."""
    options = {"quantize": "int8"}
    yield from _group(tmp_path_factory, demo_folder, host, world_size=1, options=options)


@pytest.fixture(scope="session")
def rank_on_cpu(
    tmp_path_factory: pytest.TempPathFactory, host: Host, demo_folder: Path
) -> Iterator[RankGroup]:
    """One rank that computes on the CPU, for comparison."""
    yield from _group(tmp_path_factory, demo_folder, host, world_size=1, device="cpu")


def _group(
    tmp_path_factory: pytest.TempPathFactory,
    model: Path,
    host: Host,
    *,
    world_size: int,
    device: Literal["npu", "cpu"] = "npu",
    patch: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Iterator[RankGroup]:
    start = partial(host.start, "tests.ranks.rank_group_main:main")
    folder = tmp_path_factory.mktemp(f"group-on-{device}-{world_size}")
    with RankGroup(
        folder, model, world_size, device=device, options=options, start=start, patch=patch
    ) as group:
        draw_image(group.inputs_dir / "sample.png")
        yield group
