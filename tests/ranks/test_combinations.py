"""Every layout, with sharded weights, split VAE and attention cache on and off, makes one video.

The video is a portrait of 24 frames whose 245 tokens no layout can share evenly.
"""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import msgspec
import pytest
from torch import Tensor

from broker.wire.job import JobSpec
from tests.ranks.conftest import draw_image
from tests.ranks.rank_group import RankGroup
from tests.ranks.reference import load_reference, reference_frames

TOLERANCE = 1e-4
"""Largest difference of a decoded value, which lies between -1 and 1, in float32."""

SPEC = JobSpec(
    prompt="A small dog and a cat walk slowly at sunset.",
    negative_prompt="blurred, static",
    image_size="80*112",
    num_frames=24,
    infer_steps=20,
    seed=11,
    start_step=4,
    attentioncache_interval=3,
    end_step=16,
)
LAYOUTS = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4)]

# (sharded, split, cached): every layout once, and every pair of switches in all four settings.
COVERING = {
    (1, 1): (True, True, True),
    (1, 2): (False, True, False),
    (1, 4): (True, False, False),
    (1, 8): (False, False, True),
    (2, 1): (True, True, False),
    (2, 2): (False, True, True),
    (2, 4): (True, False, True),
}
COMBINATIONS = [
    pytest.param(
        *layout,
        *switches,
        marks=() if COVERING[layout] == switches else pytest.mark.full,
    )
    for layout, switches in product(LAYOUTS, product((False, True), repeat=3))
]

Expect = Callable[[bool], Tensor]


@pytest.fixture(scope="module")
def expect(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expect]:
    """Return the expected frames: the stock pipeline's, or with the cache those of one rank."""
    folder = tmp_path_factory.mktemp("alone")
    made: dict[bool, Tensor] = {}
    with RankGroup(folder, demo_folder, world_size=1) as alone:
        image = alone.inputs_dir / "sample.png"
        draw_image(image)

        def make(is_cached: bool) -> Tensor:
            if not is_cached:
                return reference_frames(load_reference(demo_folder), SPEC, image)
            frames = alone.run(msgspec.structs.replace(SPEC, use_attentioncache=True)).frames
            assert frames is not None
            return frames

        def remember(is_cached: bool) -> Tensor:
            if is_cached not in made:
                made[is_cached] = make(is_cached)
            return made[is_cached]

        yield remember


@pytest.mark.parametrize(
    ("cfg_size", "ulysses_size", "is_sharded", "is_split", "is_cached"), COMBINATIONS
)
def test_every_combination_makes_the_same_video(
    rank_group: RankGroup,
    expect: Expect,
    cfg_size: int,
    ulysses_size: int,
    is_sharded: bool,
    is_split: bool,
    is_cached: bool,
) -> None:
    spec = msgspec.structs.replace(
        SPEC,
        cfg_size=cfg_size,
        ulysses_size=ulysses_size,
        dit_fsdp=is_sharded,
        t5_fsdp=is_sharded,
        vae_parallel=is_split,
        use_attentioncache=is_cached,
    )
    result = rank_group.run(spec)
    assert result.outcomes == {"done"}
    assert result.frames is not None
    assert float((result.frames - expect(is_cached)).abs().max()) <= TOLERANCE


def test_the_cache_changes_the_video(expect: Expect) -> None:
    assert float((expect(True) - expect(False)).abs().max()) > TOLERANCE
