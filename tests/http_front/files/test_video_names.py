"""The names of saved videos, and what a job's picture is."""

import io
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image, ImageChops

from broker.store.store import INPUTS, VIDEOS
from http_front.files.video_names import content_disposition
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, picture, serve


@pytest.mark.parametrize(
    ("prompt", "plain", "full"),
    [
        ("A boat, drifting.", "A boat drifting (seed 7).mp4", "A boat, drifting (seed 7).mp4"),
        ("../../etc/passwd", "etc passwd (seed 7).mp4", "etc passwd (seed 7).mp4"),
        ("Übermut\r\nX: y", "Ubermut X y (seed 7).mp4", "Übermut X y (seed 7).mp4"),
        ("一只猫在草地上走", "video (seed 7).mp4", "一只猫在草地上走 (seed 7).mp4"),
        ('"quoted" \u202egpj', "quoted gpj (seed 7).mp4", "quoted gpj (seed 7).mp4"),
        ("...", "video (seed 7).mp4", "video (seed 7).mp4"),
        ("word " * 40, f"{'word ' * 12}(seed 7).mp4", f"{'word ' * 12}(seed 7).mp4"),
        ("字" * 200, "video (seed 7).mp4", f"{'字' * 60} (seed 7).mp4"),
    ],
)
def test_a_saved_video_is_called_by_prompt_and_seed(prompt: str, plain: str, full: str) -> None:
    header = content_disposition(prompt, 7)
    assert header.isascii()
    assert header.isprintable()
    start, _, encoded = header.partition("; filename*=UTF-8''")
    assert start == f'inline; filename="{plain}"'
    assert unquote(encoded) == full
    assert len(full.encode()) < 255


async def test_a_video_has_its_name_and_an_unknown_one_has_none(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    async with serve(tmp_path, broker.addresses) as front:
        job_id = await submitted(front, "A boat", seed=3)
        for name in (job_id, "0" * 32):
            (tmp_path / VIDEOS / f"{name}.mp4").write_bytes(b"video")
        async with front.session.get(f"{front.url}/videos/{job_id}.mp4") as response:
            named = response.headers["Content-Disposition"]
        assert named.startswith('inline; filename="A boat drifts (seed 3).mp4"')
        async with front.session.get(f"{front.url}/videos/{'0' * 32}.mp4") as response:
            assert response.status == 200
            assert "Content-Disposition" not in response.headers


async def test_a_jobs_picture_is_what_was_stored_also_by_an_earlier_version(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    async with serve(tmp_path, broker.addresses) as front:
        job_id = await submitted(front, "A boat")
        stored = tmp_path / INPUTS / broker.images[job_id]
        assert stored.suffix == ".webp"
        status, kind, body = await fetched(front, job_id)
        assert (status, kind, body) == (200, "image/webp", stored.read_bytes())
        old = stored.with_suffix(".ppm")
        with Image.open(stored) as image:
            image.save(old, "PPM")
            broker.images[job_id] = old.name
            status, kind, body = await fetched(front, job_id)
            assert (status, kind) == (200, "image/webp")
            with Image.open(io.BytesIO(body)) as shown:
                assert ImageChops.difference(shown, image).getbbox() is None


async def test_a_picture_that_is_gone_is_told(tmp_path: Path, broker: ScriptedBroker) -> None:
    async with serve(tmp_path, broker.addresses) as front:
        job_id = await submitted(front, "A boat")
        (tmp_path / INPUTS / broker.images[job_id]).unlink()
        status, _, body = await fetched(front, job_id)
        assert (status, b"there is no picture: it was removed" in body) == (404, True)
        status, _, body = await fetched(front, job_id, ".last_input.webp")
        assert (status, b"the job has no last frame" in body) == (404, True)
        status, _, body = await fetched(front, "0" * 32)
        assert (status, b"job_not_found" in body) == (404, True)


async def submitted(front: Served, prompt: str, **fields: object) -> str:
    texts = {name: str(value) for name, value in fields.items()}
    status, answer = await front.upload(picture(), prompt=f"{prompt} drifts", **texts)
    assert status == 202, answer
    return str(answer["requestId"])


async def fetched(
    front: Served, job_id: str, ending: str = ".input.webp"
) -> tuple[int, str, bytes]:
    async with front.session.get(f"{front.url}/videos/{job_id}{ending}") as response:
        return response.status, response.content_type, await response.read()
