"""Any file becomes stored pixels or a refusal, in limited time and memory."""

import asyncio
import io
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from broker.store.folder import FolderStore
from http_front.errors import FrontError
from http_front.files.stored_files import StoredFiles
from http_front.images.decode import ImageDecoder
from tests.http_front.images.test_decode import children

FILE_LIMIT_S = 5.0


def pictures() -> list[bytes]:
    """Return a small file of each accepted format and mode."""
    gradient = Image.linear_gradient("L").resize((80, 64))
    found = []
    for kind, modes in {
        "PNG": ["1", "L", "P", "RGB", "RGBA", "I;16"],
        "JPEG": ["L", "RGB", "CMYK"],
        "WEBP": ["RGB", "RGBA"],
        "GIF": ["P"],
    }.items():
        for mode in modes:
            file = io.BytesIO()
            gradient.convert(mode).save(file, kind)
            found.append(file.getvalue())
    return found


def test_a_damaged_picture_does_not_crash_the_decoder(tmp_path: Path, num_examples: int) -> None:
    inputs = tmp_path / "inputs"
    (inputs / ".partial").mkdir(parents=True)
    good, refusals = pictures(), set[int]()
    with asyncio.Runner() as runner:

        async def start() -> ImageDecoder:
            return ImageDecoder(StoredFiles(FolderStore(tmp_path)), wall_limit_s=FILE_LIMIT_S)

        decoder = runner.run(start())

        async def store(data: bytes) -> None:
            source = tmp_path / "source"
            source.write_bytes(data)
            try:
                name = (await decoder.store(source)).name
            except FrontError as error:
                refusals.add(error.status)
                return
            with Image.open(inputs / name, formats=["WEBP"]) as image:
                assert image.mode == "RGB"

        runner.run(store(good[0]))
        before = children()

        @settings(max_examples=2 * num_examples, deadline=None, database=None, derandomize=True)
        @given(
            st.sampled_from(good),
            st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6),
            st.floats(0, 1),
        )
        def try_damaged(data: bytes, changes: list[tuple[float, bytes]], kept: float) -> None:
            damaged = bytearray(data)
            for where, inserted in changes:
                start = int(where * (len(damaged) - 1))
                damaged[start : start + len(inserted)] = inserted
            num_kept = len(damaged) if kept > 0.3 else int(len(damaged) * kept)
            runner.run(store(bytes(damaged[:num_kept])))

        try_damaged()
        assert refusals == {422}
        assert children() == before
        runner.run(decoder.close())
