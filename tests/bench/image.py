"""The time from the first byte of an image's body to the stored input.

`python -m tests.bench.image` uses a warm decoder and images with the noise of a photo, and prints
medians of 20.
"""

import asyncio
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image

from broker.store.folder import FolderStore
from broker.store.store import INPUTS
from http_front.files.stored_files import StoredFiles
from http_front.images.decode import ImageDecoder
from http_front.images.spool import MAX_IMAGE_BYTES, open_spool

NUM_RUNS = 20
SAMPLE = Path(__file__).parents[2] / "docs" / "sample.jpg"
PICTURES = {
    "JPEG 1280x720": ("JPEG", 1280, 720),
    "JPEG 1920x1080": ("JPEG", 1920, 1080),
    "JPEG 12 MP, 4032x3024": ("JPEG", 4032, 3024),
    "JPEG 12 MP, 4624x2604": ("JPEG", 4624, 2604),
    "JPEG 40 MP, 7296x5472": ("JPEG", 7296, 5472),
    "PNG 1280x720": ("PNG", 1280, 720),
    "PNG 12 MP, 4032x3024": ("PNG", 4032, 3024),
}
_CHUNK_BYTES = 1 << 16


def photo(kind: str, width_px: int, height_px: int) -> bytes:
    """Return an image file with as much detail as a photo."""
    grain = Image.effect_noise((width_px, height_px), 12).convert("RGB")
    with Image.open(SAMPLE) as sample:
        plain = sample.convert("RGB").resize((width_px, height_px), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    Image.blend(plain, grain, 0.25).save(file, kind, quality=88, compress_level=1)
    return file.getvalue()


async def store(decoder: ImageDecoder, folder: Path, body: bytes) -> float:
    """Return the seconds to store one image."""
    start = time.perf_counter()
    with open_spool(folder) as spool:
        for place in range(0, len(body), _CHUNK_BYTES):
            spool.write(body[place : place + _CHUNK_BYTES])
        await decoder.store(spool.path)
    return time.perf_counter() - start


async def measure(folder: Path) -> dict[str, list[float]]:
    """Return the seconds of each repetition."""
    (folder / INPUTS / ".partial").mkdir(parents=True)
    decoder = ImageDecoder(StoredFiles(FolderStore(folder)))
    found = {}
    try:
        for name, (kind, width_px, height_px) in PICTURES.items():
            body = photo(kind, width_px, height_px)
            assert len(body) <= MAX_IMAGE_BYTES, f"{name} has {len(body)} bytes"
            await store(decoder, folder, body)  # the first warms the decoder
            found[name] = [await store(decoder, folder, body) for _ in range(NUM_RUNS)]
    finally:
        await decoder.close()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder)))
    for name, values in found.items():
        median, worst = statistics.median(values), max(values)
        print(f"{name:24} {median * 1000:6.0f} ms   (worst {worst * 1000:.0f} ms)")
    print(json.dumps({"image_s": found}))


if __name__ == "__main__":
    main()
