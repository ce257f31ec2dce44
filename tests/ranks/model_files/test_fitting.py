"""Which sizes of video fit which cards: against the figures that were worked out by hand."""

import msgspec
import pytest

from broker.wire.model_profile import Family, ModelProfile
from launcher.card_table import SMALL_SIZE, Cell, card_rows
from ranks.errors import UnfitMemoryError
from ranks.model.model_memory import measure
from ranks.model_files.components import WEIGHTED
from ranks.model_files.fitting import GroupPlan, choose_offload, decide, fit_of, usual_job
from ranks.model_files.memory_estimate import ModelSizes, group_memory, sizes_of
from ranks.offload import NOTHING, Offload, all_choices, parse_offload
from tests.bench.cards import real_files
from tests.ranks.model.real_models import real_models, real_transformer, real_vae

PROFILE = ModelProfile()
LARGE_SIZE = PROFILE.image_size
GB = 10**9


def plan_of(card_gb: int, world_size: int = 1, **fields: object) -> GroupPlan:
    plan = GroupPlan(world_size=world_size, num_heads=40, capacity_bytes=card_gb * GB)
    return msgspec.structs.replace(plan, **fields)


@pytest.fixture(scope="module")
def sizes() -> ModelSizes:
    return sizes_of(real_files("wan2.1-i2v"))


@pytest.fixture(scope="module")
def cells(sizes: ModelSizes) -> dict[tuple[int, int, str], Cell]:
    return {
        (num_cards, card_gb, size): cell
        for num_cards, card_gb, row in card_rows(sizes, PROFILE, 40)
        for size, cell in row.items()
    }


@pytest.mark.parametrize("family", WEIGHTED)
@pytest.mark.parametrize("offload", ["none", "encoders", "models", "blocks:7"])
def test_the_estimate_from_configs_is_that_from_the_models(family: Family, offload: str) -> None:
    _, text_encoder, image_encoder, _ = real_models()
    has_images = "image_encoder" in WEIGHTED[family]
    experts = [real_transformer(family)] * sum(p.startswith("transf") for p in WEIGHTED[family])
    num_images = {"wan2.1-i2v": 1, "wan2.1-flf2v": 2}.get(family, 0)
    kept = parse_offload(offload)
    measured = measure(
        experts,
        text_encoder,
        image_encoder if has_images else None,
        real_vae(family),
        num_embedded_images=num_images,
        world_size=1,
        capacity_bytes=80 * GB,
        offload=kept,
    )
    assert group_memory(sizes_of(real_files(family)), 1, 80 * GB, kept) == measured


@pytest.mark.parametrize(
    ("what", "size", "expected_gb"),
    [
        (Offload(encoders=True, models=True, num_resident=0), SMALL_SIZE, 9.8),
        (Offload(encoders=True, models=True, num_resident=0), LARGE_SIZE, 18.2),
        (Offload(encoders=True), SMALL_SIZE, 40.5),
        (Offload(encoders=True), LARGE_SIZE, 48.8),
        (NOTHING, SMALL_SIZE, 54.8),
        (NOTHING, LARGE_SIZE, 63.2),
    ],
)
def test_the_loop_on_one_card_takes_what_was_worked_out(
    sizes: ModelSizes, what: Offload, size: str, expected_gb: float
) -> None:
    """Weights, activations and both branches' keys and values, without the allocator's reserve."""
    memory = group_memory(sizes, 1, 80 * GB, what)
    side, other = (int(number) for number in size.split("*"))
    num_tokens = 21 * (side // 16) * (other // 16)
    loop = num_tokens * memory.token_bytes + 2 * memory.condition_bytes
    found = memory.weights_bytes + memory.steps_bytes + loop
    assert found / GB == pytest.approx(expected_gb, abs=0.6)


@pytest.mark.parametrize(
    ("num_cards", "card_gb", "size", "options"),
    [
        (1, 24, SMALL_SIZE, "--offload blocks:"),
        (1, 24, LARGE_SIZE, "--offload blocks:"),
        (1, 32, SMALL_SIZE, "--offload blocks:"),
        (1, 32, LARGE_SIZE, "--offload blocks:"),
        (1, 48, SMALL_SIZE, "--offload models"),
        (1, 48, LARGE_SIZE, "--offload blocks:"),
        (1, 64, SMALL_SIZE, "--offload encoders"),
        (1, 64, LARGE_SIZE, "--offload encoders"),
        (1, 80, SMALL_SIZE, ""),
        (1, 80, LARGE_SIZE, ""),
        (2, 32, SMALL_SIZE, "--vae-parallel --dit-fsdp --offload encoders"),
        (2, 48, LARGE_SIZE, "--vae-parallel --dit-fsdp --offload encoders"),
        (2, 48, SMALL_SIZE, "--t5-fsdp --vae-parallel --dit-fsdp"),
        (8, 24, LARGE_SIZE, "--t5-fsdp --vae-parallel --dit-fsdp"),
        (8, 80, LARGE_SIZE, ""),
    ],
)
def test_the_table_answers_as_the_published_and_worked_out_one(
    cells: dict[tuple[int, int, str], Cell], num_cards: int, card_gb: int, size: str, options: str
) -> None:
    cell = cells[num_cards, card_gb, size]
    assert cell.fit.is_fit
    assert cell.options.startswith(options)
    assert bool(cell.options) == bool(options)


def test_as_many_blocks_stay_as_there_is_room_for(sizes: ModelSizes) -> None:
    spec = usual_job(PROFILE, LARGE_SIZE)
    plan = plan_of(32)
    chosen = choose_offload(plan, sizes, PROFILE, spec).offload
    assert chosen.num_resident is not None
    one_more = msgspec.structs.replace(chosen, num_resident=chosen.num_resident + 1)
    assert not fit_of(plan, sizes, PROFILE, spec, one_more).is_fit
    assert 8 <= chosen.num_resident <= 20


def test_two_experts_leave_room_for_one_on_a_card_of_64_gb() -> None:
    expert = sizes_of(real_files("wan2.2-i2v-a14b"))
    spec = usual_job(PROFILE, LARGE_SIZE)
    fit = choose_offload(plan_of(64), expert, PROFILE, spec)
    assert fit.offload.text == "models"
    assert fit.host_bytes / GB == pytest.approx(2 * 28.1 + 11.4, abs=0.1)


def test_what_the_host_has_no_room_for_is_not_chosen(sizes: ModelSizes) -> None:
    spec = usual_job(PROFILE, LARGE_SIZE)
    poor = plan_of(48, host_capacity_bytes=16 * GB)
    assert choose_offload(poor, sizes, PROFILE, spec).offload == Offload(encoders=True)
    with pytest.raises(UnfitMemoryError, match=r"keeps 46\.2 GB .* has 16\.0 GB free"):
        decide(poor, sizes, PROFILE, parse_offload("blocks"))


def test_what_cannot_fit_is_refused_with_the_numbers(sizes: ModelSizes) -> None:
    refusal = r"--offload none the weights take 47\.2 GB of each device, of which 21\.5 GB"
    with pytest.raises(UnfitMemoryError, match=refusal):
        decide(plan_of(24), sizes, PROFILE, NOTHING)
    with pytest.raises(UnfitMemoryError, match=r"--offload blocks:0 the weights take 12\.4 GB"):
        decide(plan_of(12), sizes, PROFILE, None)
    tight = decide(plan_of(12, 8, dit_fsdp=True, t5_fsdp=True), sizes, PROFILE, None)
    assert tight.offload == NOTHING, "the whole text encoder has no room on a device"


def test_ranks_that_share_a_transformer_copy_no_part_of_it_from_the_host() -> None:
    assert [choice.text for choice in all_choices(40, world_size=2)] == ["none", "encoders"]


@pytest.mark.parametrize("text", ["none", "encoders", "models", "blocks:0", "blocks:12"])
def test_a_choice_is_spelled_as_it_is_read(text: str) -> None:
    assert parse_offload(text).text == text
    assert parse_offload("blocks").text == "blocks:0"


def test_numbers_of_a_vae_in_bfloat16_take_half(sizes: ModelSizes) -> None:
    assert sizes.with_vae_items(2) == sizes_of(real_files("wan2.1-i2v"), vae_item_bytes=2)
