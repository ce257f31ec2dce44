import io
import queue
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from broker.wire.job_view import Lease
from broker.wire.rank_messages import MAX_PREVIEW_BYTES
from ranks.errors import ModelFolderError
from ranks.media.latent_colours import Colours, fit_colours, paint
from ranks.media.previews import Previews, encode_jpeg
from ranks.model.conditioning import image_tensor, open_image
from ranks.model.vae import encode_clip
from ranks.model.weights import load_vae
from ranks.model_files.diffusers_folder import read_component
from tests.ranks.conftest import DemoFolders
from tests.running_server import SAMPLE

LEASE = Lease(group="g0", epoch=1, job_id="0" * 32, attempt=1)
MEAN_DIFFERENCE = 12.0
"""Of 255, between a painted latent and the mean colour of its pixels; the demo VAE sharpens."""
LIMIT_S = 10.0

Sent = queue.SimpleQueue[tuple[Lease, bytes]]


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return image_tensor(open_image(SAMPLE, 320, 192))


@pytest.fixture(scope="module")
def fitted(demo_folder: Path, picture: torch.Tensor) -> tuple[Colours, torch.Tensor]:
    """The map of the demo VAE, and the latents of a clip that shows the picture."""
    vae = load_vae(read_component(demo_folder / "vae"), torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        return fit_colours(vae), encode_clip(vae, picture.unsqueeze(2).expand(-1, -1, 5, -1, -1))


def previews(colours: Colours, sent: Sent) -> Previews:
    return Previews(colours, 8, lambda lease, jpeg: sent.put((lease, jpeg)))


def test_painted_latents_show_the_encoded_picture(
    fitted: tuple[Colours, torch.Tensor], picture: torch.Tensor
) -> None:
    colours, latents = fitted
    expected = torch.nn.functional.avg_pool2d(picture, 8)[0].permute(1, 2, 0).numpy()
    for frame in range(latents.shape[2]):
        painted = np.asarray(paint(latents[0, :, frame].numpy(), colours), float)
        assert np.abs(painted - (expected + 1.0) * 127.5).mean() <= MEAN_DIFFERENCE


def test_a_vae_with_more_latents_has_a_colour_for_each(demo_folders: DemoFolders) -> None:
    component = read_component(demo_folders("wan2.2-ti2v-5b") / "vae")
    vae = load_vae(component, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        colours = fit_colours(vae)
    assert colours.shape == (48 + 1, 3)
    assert np.isfinite(colours).all()


def test_a_vae_that_computes_nan_is_named(demo_folder: Path) -> None:
    """Otherwise the group would end with an internal error of torch."""
    vae = load_vae(read_component(demo_folder / "vae"), torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        vae.quant_conv.bias.fill_(float("nan"))
        with pytest.raises(ModelFolderError, match="NaN or infinity; its weights are damaged"):
            fit_colours(vae)


def test_the_fit_is_reproducible(demo_folder: Path, fitted: tuple[Colours, torch.Tensor]) -> None:
    vae = load_vae(read_component(demo_folder / "vae"), torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        assert np.allclose(fit_colours(vae), fitted[0], atol=1e-4)


@pytest.mark.parametrize(
    ("latent_size", "shown_size"),
    [((160, 90), (320, 180)), ((90, 160), (180, 320)), ((16, 16), (128, 128))],
)
def test_a_preview_is_small(latent_size: tuple[int, int], shown_size: tuple[int, int]) -> None:
    noise = np.random.default_rng(7).integers(0, 256, (*latent_size[::-1], 3), np.uint8)
    jpeg = encode_jpeg(Image.fromarray(noise), 8)
    assert len(jpeg) <= MAX_PREVIEW_BYTES
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.size) == ("JPEG", shown_size)


def test_previews_show_the_frames_of_the_latest_latents_in_turn(
    fitted: tuple[Colours, torch.Tensor],
) -> None:
    colours, latents = fitted
    latents = torch.cat((latents, -latents), dim=2)
    sent: Sent = queue.SimpleQueue()
    shown = previews(colours, sent)
    shown.show(LEASE, latents)
    pictures = [sent.get(timeout=LIMIT_S) for _ in range(4)]
    shown.end()
    assert {lease for lease, _ in pictures} == {LEASE}
    assert len({jpeg for _, jpeg in pictures}) == 4


def test_no_previews_are_sent_for_an_ended_run(fitted: tuple[Colours, torch.Tensor]) -> None:
    colours, latents = fitted
    sent: Sent = queue.SimpleQueue()
    shown = previews(colours, sent)
    shown.show(LEASE, latents)
    sent.get(timeout=LIMIT_S)
    shown.end()
    other = Lease(group="g0", epoch=1, job_id="1" * 32, attempt=1)
    shown.show(other, latents)
    assert sent.get(timeout=LIMIT_S)[0] == other
