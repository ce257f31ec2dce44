"""`wan` and the Python client with several models and the last frame."""

import json
from pathlib import Path

import pytest

from broker.wire.lora import LoraChoice
from http_front.client.client import RefusedError, WanClient
from http_front.video.schema import EXAMPLE_IMAGE
from tests.http_front.full_stack import start_wan
from tests.http_front.models.profiles import FIRST_AND_LAST, TWO_EXPERTS, WAN21, WITH_LORAS
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import PROMPT, Served, picture


@pytest.fixture(autouse=True)
def models(broker: ScriptedBroker) -> None:
    broker.models = models_found(WAN21, TWO_EXPERTS, FIRST_AND_LAST)


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    first, last = tmp_path / "first.png", tmp_path / "last.png"
    first.write_bytes(picture(96, 64))
    last.write_bytes(picture(64, 96))
    return first, last


async def wan(front: Served, *words: str) -> tuple[int, str, str]:
    process = await start_wan(*words, "--server", front.url)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_wan_models_lists_them(front: Served) -> None:
    code, out, err = await wan(front, "models")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[1].split()[:3] == [WAN21.name, "yes", "yes"]
    assert "30 (20-100)" in lines[1]
    assert lines[3].split()[-2:] == ["required", "none"]
    _, out, _ = await wan(front, "models", "--json")
    assert [model["id"] for model in json.loads(out)["data"]] == [
        profile.name for profile in (WAN21, TWO_EXPERTS, FIRST_AND_LAST)
    ]


async def test_wan_submit_names_a_model_and_sends_the_last_frame(
    front: Served, broker: ScriptedBroker, images: tuple[Path, Path]
) -> None:
    code, out, err = await wan(
        front,
        *("submit", str(images[0]), "--prompt", PROMPT, "--model", TWO_EXPERTS.name),
        *("--last-image", str(images[1]), "--guidance-scale-2", "2.5", "--frames", "100"),
    )
    assert code == 0, err
    job_id = out.strip()
    spec = broker.specs[job_id]
    assert (spec.model, spec.guidance_scale_2, spec.infer_steps) == (TWO_EXPERTS.name, 2.5, 40)
    assert broker.last_images[job_id] not in (None, broker.images[job_id])
    assert "was trained with 81" in " ".join(err.split())


async def test_wan_submit_with_an_unknown_model_says_which_there_are(
    front: Served, images: tuple[Path, Path]
) -> None:
    words = ("submit", str(images[0]), "--prompt", PROMPT, "--model", "Wan9")
    code, _, err = await wan(front, *words)
    assert code == 2
    assert "this server serves Wan2.1-I2V-14B-720P, Wan2.2-I2V-A14B" in " ".join(err.split())


async def test_the_client_sends_a_file_and_a_url(
    front: Served, broker: ScriptedBroker, images: tuple[Path, Path]
) -> None:
    fields: dict[str, object] = {"prompt": PROMPT, "model": FIRST_AND_LAST.name}
    async with WanClient(front.url) as client:
        assert next(model.id for model in (await client.models()).data) == WAN21.name
        with pytest.raises(RefusedError, match="last_image_url leads to an address") as refused:
            await client.submit(images[0], fields, last_image="http://127.0.0.1/last.png")
        assert refused.value.detail.field == "last_image_url"
        with pytest.raises(RefusedError, match="needs the video's last frame"):
            await client.submit(images[0], fields)
        job_id = await client.submit(images[0], fields, last_image=images[1])
    assert broker.last_images[job_id] is not None


async def test_wan_submit_names_loras_with_their_strengths(
    front: Served, broker: ScriptedBroker, images: tuple[Path, Path]
) -> None:
    """A file is sent in a form, where a list is JSON text; a URL in JSON."""
    broker.models = models_found(WITH_LORAS)
    words = ("--prompt", PROMPT, "--lora", "anime@0.5", "--lora", "dust")
    for image in (str(images[0]), EXAMPLE_IMAGE):
        code, out, err = await wan(front, "submit", image, *words)
        assert code == 0, err
        assert broker.specs[out.strip()].loras == (
            LoraChoice(name="anime", strength=0.5),
            LoraChoice(name="dust"),
        )
