"""The encoders of text and image on one device."""

import torch

from ranks.device import Device
from tests.bench.device_rates import time_s
from tests.bench.random_models import Size, make_image_encoder, make_text_encoder

NUM_TEXT_TOKENS = 512


def text_encoding_s(size: Size, device: Device) -> float:
    """Return the time of one prompt of full length; a job has two."""
    encoder = make_text_encoder(size, device.torch_device, device.model_dtype)
    tokens = torch.randint(3, 1000, (1, NUM_TEXT_TOKENS), device=device.torch_device)
    mask = torch.ones_like(tokens)
    return time_s(device, lambda: encoder(tokens, mask))


def image_encoding_s(size: Size, device: Device) -> float:
    encoder = make_image_encoder(size, device.torch_device)
    side = encoder.config.image_size
    pixels = torch.randn(1, 3, side, side, device=device.torch_device)
    return time_s(device, lambda: encoder(pixels, output_hidden_states=True))
