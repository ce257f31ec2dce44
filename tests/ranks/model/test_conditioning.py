"""Preparation of prompts, images and noise."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ranks.device import open_device
from ranks.errors import JobError
from ranks.model.conditioning import (
    Models,
    PromptEncoder,
    clean_text,
    draw_noise,
    load_models,
    open_image,
)
from ranks.model_files.architecture import NUM_TEXT_TOKENS
from ranks.model_files.opened_model import open_model


@pytest.fixture(scope="module")
def models(demo_folder: Path) -> Models:
    return load_models(open_model(demo_folder), open_device("cpu", 0, 1), mesh=None)


@pytest.fixture
def encoded(models: Models) -> Iterator[list[str]]:
    """Gets an entry each time the text encoder runs."""
    runs: list[str] = []
    hook = models.text_encoder.register_forward_hook(lambda *_: runs.append("run"))
    yield runs
    hook.remove()


@torch.inference_mode()
def test_a_kept_prompt_is_not_encoded_again(models: Models, encoded: list[str]) -> None:
    encoder = PromptEncoder(models)
    first = encoder.encode("a cat  walks")
    assert torch.equal(encoder.encode(" a cat walks "), first)
    assert len(encoded) == 1


@torch.inference_mode()
def test_only_the_latest_prompts_are_kept(models: Models, encoded: list[str]) -> None:
    encoder = PromptEncoder(models, num_kept=2)
    for prompt in ("first", "second", "third", "second", "first"):
        encoder.encode(prompt)
    assert len(encoded) == 4


@torch.inference_mode()
def test_cleared_prompts_are_encoded_again(models: Models, encoded: list[str]) -> None:
    encoder = PromptEncoder(models)
    encoder.encode("a cat walks")
    encoder.clear()
    encoder.encode("a cat walks")
    assert len(encoded) == 2


@torch.inference_mode()
def test_an_embedding_is_zero_after_the_last_token(models: Models) -> None:
    embedded = PromptEncoder(models).encode("")
    assert embedded.shape[:2] == (1, 512)
    assert embedded[0, 0].any()  # the end-of-sequence token
    assert not embedded[0, 1:].any()


@pytest.mark.parametrize("num_words", [0, 10, 50, 100, 600])
@torch.inference_mode()
def test_a_prompt_has_the_bits_of_all_tokens_but_most_padding_is_not_computed(
    models: Models, num_words: int
) -> None:
    shapes: list[int] = []
    prompt = " ".join("boat" for _ in range(num_words))
    tokens = models.tokenizer(
        [prompt], padding="max_length", max_length=512, truncation=True, return_tensors="pt"
    )
    padded = models.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    block = models.text_encoder.encoder.block[0]
    with block.register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape[1])):
        found = PromptEncoder(models).encode(prompt)
    num_tokens = int(tokens.attention_mask.sum())
    assert shapes == [-(-num_tokens // 128) * 128]
    assert torch.equal(found, padded * tokens.attention_mask.unsqueeze(-1))


def test_the_tokens_of_a_prompt_are_counted_also_where_they_are_not_read(models: Models) -> None:
    encoder = PromptEncoder(models)
    assert encoder.num_tokens("boat") < encoder.num_tokens("boat  boat") < 20
    assert encoder.num_tokens("boat " * 600) > NUM_TEXT_TOKENS


def test_the_encoding_of_a_prompt_is_fixed_and_html_is_unescaped() -> None:
    assert clean_text(" cats &amp;amp; dogs\n\tin the cafÃ© ") == "cats & dogs in the café"


def test_an_image_covers_the_size_and_is_cropped_around_its_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    image.save(tmp_path / "wide.png")
    fitted = open_image(tmp_path / "wide.png", 64, 64)
    assert fitted.size == (64, 64)
    red, _, blue = np.moveaxis(np.asarray(fitted), 2, 0)
    assert red.max() < 15
    assert blue.min() > 240


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no picture at all"])
def test_an_unreadable_image_fails_with_a_clear_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(JobError, match="can no longer be read; submit it again"):
        open_image(path, 64, 64)


def test_a_missing_image_fails_with_a_clear_message(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="submit it again"):
        open_image(tmp_path / "none.png", 64, 64)


def test_a_seed_gives_the_same_noise_every_time() -> None:
    assert torch.equal(draw_noise(3, (2, 5)), draw_noise(3, (2, 5)))
    assert not torch.equal(draw_noise(3, (2, 5)), draw_noise(4, (2, 5)))
