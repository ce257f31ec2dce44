"""The stand-in NPU, and groups of ranks on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.npu.build import NoCompilerError, build
from tests.npu.stand_in import StandIn
from tests.ranks.conftest import demo_folder, draw_image
from tests.ranks.rank_group import RankGroup
from tests.torch_npu_wheel import function_source, native_operators, open_wheel

__all__ = ["demo_folder"]

SMALL_MIB = 80
"""Memory of the devices where the admission of jobs is under test."""

REPLACED = [
    ("torch_npu/_compat/distributed.py", "_new_process_group_helper"),
    ("torch_npu/distributed/distributed_c10d.py", "_batch_isend_irecv"),
]
"""Functions of torch_npu on the ranks' way that are Python, so that the real ones can be run."""


@pytest.fixture(scope="session")
def npu(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    """The stand-in, compiled where that has not been done."""
    folder = tmp_path_factory.mktemp("npu")
    with open_wheel() as wheel:
        operators = folder / "operators"
        operators.write_text("\n".join(sorted(native_operators(wheel))))
        functions = folder / "functions.py"
        functions.write_text("\n\n".join(function_source(wheel, *place) for place in REPLACED))
    try:
        library = build()
    except NoCompilerError as error:
        pytest.skip(str(error))
    log = folder / "log"
    log.mkdir()
    return StandIn(library=library, operators=operators, functions=functions, log=log)


@pytest.fixture(scope="session")
def one_rank(
    tmp_path_factory: pytest.TempPathFactory, demo_folder: Path, npu: StandIn
) -> Iterator[RankGroup]:
    """One rank in the dtypes of an NPU."""
    yield from _group(tmp_path_factory, demo_folder, npu, world_size=1)


@pytest.fixture(scope="session")
def two_ranks(
    tmp_path_factory: pytest.TempPathFactory, demo_folder: Path, npu: StandIn
) -> Iterator[RankGroup]:
    """Two ranks in the dtypes of an NPU, with an older runtime."""
    yield from _group(tmp_path_factory, demo_folder, npu, world_size=2, cann=8)


@pytest.fixture(scope="session")
def two_exact_ranks(
    tmp_path_factory: pytest.TempPathFactory, demo_folder: Path, npu: StandIn
) -> Iterator[RankGroup]:
    """Two ranks that compute in float32."""
    yield from _exact_group(tmp_path_factory, demo_folder, npu, world_size=2)


@pytest.fixture(scope="session")
def eight_exact_ranks(
    tmp_path_factory: pytest.TempPathFactory, demo_folder: Path, npu: StandIn
) -> Iterator[RankGroup]:
    """Eight ranks that compute in float32."""
    yield from _exact_group(tmp_path_factory, demo_folder, npu, world_size=8)


def _exact_group(
    tmp_path_factory: pytest.TempPathFactory, model: Path, npu: StandIn, *, world_size: int
) -> Iterator[RankGroup]:
    # Forked, since eight imports take half a minute, and only here: their process has not touched
    # a device. The other groups and the whole server start as the product does on accelerators.
    yield from _group(
        tmp_path_factory,
        model,
        npu,
        world_size=world_size,
        patch="tests.npu.seeds:float32",
        can_fork=True,
    )


def _group(
    tmp_path_factory: pytest.TempPathFactory,
    model: Path,
    npu: StandIn,
    *,
    world_size: int,
    patch: str | None = None,
    can_fork: bool | None = None,
    cann: int = 9,
) -> Iterator[RankGroup]:
    folder = tmp_path_factory.mktemp(f"npu-group-{world_size}")
    environment = npu.environment(capacity_mib=SMALL_MIB, cann=cann)
    with RankGroup(
        folder,
        model,
        world_size,
        device="npu",
        environment=environment,
        can_fork=can_fork,
        patch=patch,
    ) as group:
        draw_image(group.inputs_dir / "sample.png")
        yield group
