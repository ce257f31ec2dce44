from dataclasses import replace
from typing import Any

import msgspec
import torch

from ranks.kept_encodings import ImageEncoding, ImageKey, KeptEncodings
from tests.ranks.rank_group import RankGroup
from tests.ranks.test_run import SMALL


def key(image: str) -> ImageKey:
    return ImageKey(
        image=image,
        last_image=None,
        width_px=64,
        height_px=64,
        num_frames=81,
        vae_parallel=None,
        vae_dtype="torch.float32",
    )


def encoding(num_bytes: int) -> ImageEncoding:
    embeds = torch.zeros(num_bytes // 2, dtype=torch.uint8)
    return ImageEncoding(image_embeds=embeds, latents=torch.zeros_like(embeds))


def test_the_encodings_used_last_are_kept_within_the_limit() -> None:
    kept = KeptEncodings(num_bytes=300)
    for image in ("first", "second", "third"):
        kept.keep(key(image), encoding(100))
    assert kept.find(key("first"))
    kept.keep(key("fourth"), encoding(100))
    assert kept.find(key("second")) is None
    assert kept.find(key("first"))
    kept.keep(key("large"), encoding(400))
    assert not any(map(kept.find, map(key, ("first", "third", "fourth", "large"))))


def test_another_size_length_or_last_image_is_another_encoding() -> None:
    kept = KeptEncodings()
    kept.keep(key("lake"), encoding(100))
    assert kept.find(key("lake"))
    fields = {field for field in ImageKey.__dataclass_fields__ if field != "image"}
    others: dict[str, Any] = {
        "last_image": "sea",
        "width_px": 80,
        "height_px": 80,
        "num_frames": 25,
        "vae_parallel": True,
        "vae_dtype": "torch.bfloat16",
    }
    assert fields == others.keys()
    for field, value in others.items():
        assert kept.find(replace(key("lake"), **{field: value})) is None, field
    kept.clear()
    assert kept.find(key("lake")) is None


def test_the_next_job_with_a_picture_does_not_encode_it_again(rank_group: RankGroup) -> None:
    sample = rank_group.inputs_dir / "sample.png"
    (rank_group.inputs_dir / "picture.png").write_bytes(sample.read_bytes())
    spec = msgspec.structs.replace(SMALL, infer_steps=3)
    encoded, kept = (rank_group.run(spec, "picture.png") for _ in range(2))
    num_chunks = 7
    saved = {
        a.num_meetings - b.num_meetings for a, b in zip(encoded.reports, kept.reports, strict=True)
    }
    assert saved == {1 + num_chunks}, "the image encoder and the chunks of the VAE"
    assert encoded.frames is not None
    assert kept.frames is not None
    assert torch.equal(kept.frames, encoded.frames)
    # After a failure, ranks could keep different encodings.
    assert "PeerFailed" in rank_group.run(spec, "picture.png", fail_rank=5).outcomes
    again = rank_group.run(spec, "picture.png")
    assert [report.num_meetings for report in again.reports] == [
        report.num_meetings for report in encoded.reports
    ]
    assert again.frames is not None
    assert torch.equal(again.frames, encoded.frames)
