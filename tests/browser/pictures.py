"""Draw the pictures of README and documents: `make pictures`.

They show the running demo: the page in both languages, and three frames of a video.
"""

import asyncio
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg
from PIL import Image
from playwright.async_api import Browser, ViewportSize, async_playwright

from tests.running_server import ROOT, SAMPLE, RunningServer, calling, running_server

PICTURES = ROOT / "docs" / "pictures"
VIEWPORT = ViewportSize(width=1180, height=1030)
LANGUAGES = {"page.jpg": "en-US", "page.zh.jpg": "zh-CN"}
PROMPTS = (
    "A small sailing boat drifts across a calm bay while the sun goes down",
    "The boat turns into the wind, and its sail trembles",
)
JOB = {"image_size": "256*256", "num_frames": "24", "infer_steps": "20"}
SIDE_PX = 256
GAP_PX = 8
SHOWN = (0, 11, 23)
"""Numbers of the frames."""
JOB_LIMIT_S = 180.0


async def main() -> None:
    require_chinese_font()
    with tempfile.TemporaryDirectory(prefix="wan-") as folder:
        async with running_server(Path(folder) / "state") as server, async_playwright() as driver:
            video = await make_videos(server)
            PICTURES.joinpath("demo.jpg").write_bytes(three_frames(video))
            browser = await driver.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            for name, language in LANGUAGES.items():
                await draw_page(browser, server, PICTURES / name, language)
            await browser.close()


def require_chinese_font() -> None:
    """Without one, the page is drawn with empty boxes, and nothing fails."""
    if not subprocess.run(["fc-list", ":lang=zh"], check=True, capture_output=True).stdout:
        raise SystemExit(
            "no font has Chinese characters. On Debian and Ubuntu: "
            "sudo apt-get install fonts-noto-cjk"
        )


async def make_videos(server: RunningServer) -> bytes:
    """Make a video with each prompt, then leave a long job running; return the first video."""
    async with calling(server) as caller:
        ids = []
        for seed, prompt in enumerate(PROMPTS, 7):
            ids.append(await caller.submit(**JOB, prompt=prompt, seed=str(seed)))
            await caller.wait_for(ids[-1], limit_s=JOB_LIMIT_S, status="Succeed")
        running = await caller.submit(**JOB | {"infer_steps": "100", "prompt": PROMPTS[0]})
        await caller.wait_for(running, limit_s=JOB_LIMIT_S, stage="denoise")
        async with caller.session.get(f"/videos/{ids[0]}.mp4") as response:
            return await response.read()


async def draw_page(browser: Browser, server: RunningServer, path: Path, language: str) -> None:
    context = await browser.new_context(viewport=VIEWPORT, locale=language)
    page = await context.new_page()
    await page.goto(server.url)
    await page.wait_for_selector("body.ready")
    await page.set_input_files("input[type=file]", SAMPLE)
    await page.wait_for_selector("#picture.filled")
    await page.wait_for_selector("img.live")
    await page.screenshot(path=path, type="jpeg", quality=80)
    await context.close()


def three_frames(video: bytes) -> bytes:
    """Return frames of a video side by side, as a JPEG."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(video)
        file.flush()
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", file.name]
        raw = subprocess.run(
            [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, capture_output=True
        ).stdout
    num_bytes = SIDE_PX * SIDE_PX * 3
    row = Image.new("RGB", (len(SHOWN) * (SIDE_PX + GAP_PX) - GAP_PX, SIDE_PX), "white")
    for column, number in enumerate(SHOWN):
        pixels = raw[number * num_bytes : (number + 1) * num_bytes]
        frame = Image.frombytes("RGB", (SIDE_PX, SIDE_PX), pixels)
        row.paste(frame, (column * (SIDE_PX + GAP_PX), 0))
    found = io.BytesIO()
    row.save(found, "JPEG", quality=85)
    return found.getvalue()


if __name__ == "__main__":
    asyncio.run(main())
