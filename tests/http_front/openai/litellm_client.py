"""Makes a video as a program that uses LiteLLM would: `python FILE URL`. It writes what it got."""

import asyncio
import json
import os
import sys
from io import BytesIO

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it is fetched from the web

import litellm
from PIL import Image


def picture() -> BytesIO:
    file = BytesIO()
    Image.new("RGB", (96, 64), "teal").save(file, "PNG")
    file.seek(0)
    return file


async def main(url: str) -> None:
    server = {"api_base": f"{url}/v1", "api_key": "none"}
    created = await litellm.avideo_generation(
        "a cat walks over the grass",
        model="openai/Wan2.1-I2V-14B-720P",
        input_reference=picture(),
        seconds="4",
        size="1280x720",
        **server,
    )
    video = created
    while video.status not in ("completed", "failed"):
        await asyncio.sleep(0.1)
        video = await litellm.avideo_status(created.id, **server)
    content = await litellm.avideo_content(created.id, **server)
    found = {
        "status": video.status,
        "seconds": video.seconds,
        "size": video.size,
        "num_bytes": len(content),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
