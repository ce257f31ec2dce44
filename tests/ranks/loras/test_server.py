"""LoRAs through a whole server: two ranks that shard the weights."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
from safetensors.torch import load_file, save_file
from torch import Tensor

from ranks.loras.lora_files import LoraFiles
from tests.ranks.loras.lora_forms import write_comfy, write_lightx2v
from tests.running_server import Caller, calling, running_server

COMMAND = ("launch.py", "--device", "cpu", "--port", "0", "--nproc", "2", "--dit-fsdp")
CHOICE = json.dumps([{"name": "light", "strength": 0.5}])


async def video(caller: Caller, folder: Path, **fields: str) -> tuple[bytes, dict[str, Any]]:
    job_id = await caller.submit(image_size="64*64", **fields)
    await caller.wait_for(job_id, status="Succeed", attempt=1)
    return read_video(folder / "videos" / f"{job_id}.mp4")


def read_video(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return hashes of its frames, and its metadata."""
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    frames = subprocess.check_output([*ffmpeg, "-f", "framemd5", "-"])
    metadata = subprocess.check_output([*ffmpeg, "-f", "ffmetadata", "-"], text=True)
    found = re.search(r"^comment=(.*)$", metadata, re.MULTILINE)
    assert found is not None
    return frames, json.loads(re.sub(r"\\(.)", r"\1", found[1]))


async def refusal(caller: Caller, loras: object) -> str:
    body = {
        "prompt": "A small boat drifts over a calm bay",
        "image_url": "https://a.example/b.png",
        "loras": loras,
    }
    async with caller.session.post("/video/submit", json=body) as response:
        answer = await response.json()
        assert response.status == 422, answer
        assert answer["error"]["field"] == "loras", answer
        return str(answer["error"]["message"])


async def test_a_job_without_loras_has_the_same_bits_before_and_after_one_with_them(
    demo_folder: Path, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    write_lightx2v(folder / "light.safetensors", weights)
    write_comfy(folder / "comfy.safetensors", weights)
    save_file({"x.lora_A.weight": weights["proj_out.weight"]}, folder / "foreign.safetensors")
    hashes = LoraFiles(name="", paths=(str(folder / "light.safetensors"),)).identified().hashes
    state = tmp_path / "state"
    flags = ("--model-path", str(demo_folder), "--loras", str(folder))
    async with running_server(state, *flags, command=COMMAND) as server, calling(server) as caller:
        before, metadata = await video(caller, state)
        assert {"loras", "lora_hashes"}.isdisjoint(metadata)
        changed, metadata = await video(caller, state, loras=CHOICE)
        assert metadata["loras"] == json.loads(CHOICE)
        assert metadata["lora_hashes"] == {"light": list(hashes)}
        after, _ = await video(caller, state)
        assert before == after
        assert changed != before

        assert "loras names foreign, which demo does not have; it has comfy, light" in (
            await refusal(caller, [{"name": "foreign"}])
        )
        assert "it must be a list of at most 4 objects with name (a string), strength" in (
            await refusal(caller, [{"name": "light", "path": "/etc/passwd"}])
        )
        assert "a list of at most 4" in await refusal(caller, [{"name": "../light"}])
        assert "names light twice" in await refusal(caller, [{"name": "light"}] * 2)
        assert "a list of at most 4" in await refusal(caller, [{"name": "light"}] * 5)

        tensors = load_file(folder / "light.safetensors")
        save_file(
            {name: tensor * 2 for name, tensor in tensors.items()}, folder / "light.safetensors"
        )
        job_id = await caller.submit(image_size="64*64", loras=CHOICE)
        ended = await caller.wait_for(job_id, status="Failed", attempt=1)
        assert ended["reason"].startswith("LoRA light has changed or is gone since")
        assert ended["lora_hashes"] == {"light": list(hashes)}
    log = server.log()
    assert "foreign.safetensors holds x.lora_A.weight without its partner" in log
