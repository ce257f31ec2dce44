"""The numerical reference: diffusers' own pipeline in one process, with our noise schedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from torch import Tensor
from transformers import CLIPVisionModel, T5TokenizerFast, UMT5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from broker.wire.job import JobSpec
from ranks.model.conditioning import open_image
from ranks.model.weights import fill_transformer, load_vae, meta_transformer
from ranks.model_files.components import ComponentName, ModelFiles
from ranks.model_files.json_file import read_json
from ranks.model_files.opened_model import open_model
from tests.ranks.schedulers import make_scheduler


def load_reference(folder: Path) -> WanImageToVideoPipeline:
    """Load the stock pipeline with stock attention, in float32 on the CPU."""
    files = open_model(folder)
    has_images = "image_encoder" in files.components
    index = read_json(folder / "model_index.json")
    pipeline = WanImageToVideoPipeline(
        tokenizer=T5TokenizerFast.from_pretrained(folder / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        image_encoder=CLIPVisionModel.from_pretrained(folder / "image_encoder")
        if has_images
        else None,
        image_processor=CLIPImageProcessorPil.from_pretrained(folder / "image_processor")
        if has_images
        else None,
        transformer=_load_transformer(files, "transformer"),
        transformer_2=_load_transformer(files, "transformer_2"),
        boundary_ratio=index.get("boundary_ratio"),
        expand_timesteps=index.get("expand_timesteps", False),
        vae=load_vae(files.components["vae"], torch.float32, torch.device("cpu")),
        scheduler=make_scheduler("unipc", 20, 5.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_transformer(files: ModelFiles, part: ComponentName) -> WanTransformer3DModel | None:
    component = files.components.get(part)
    if component is None:
        return None
    transformer = meta_transformer(component, torch.float32)
    fill_transformer(transformer, component, torch.device("cpu"))
    return transformer


def reference_frames(
    pipeline: WanImageToVideoPipeline, spec: JobSpec, image: Path, last_image: Path | None = None
) -> Tensor:
    """Return the frames `[1, 3, T, H, W]`, from -1 to 1, of the stock pipeline."""
    assert spec.seed is not None
    pipeline.scheduler = _fixed_schedule(spec)
    first, last = (
        None if path is None else open_image(path, spec.width_px, spec.height_px)
        for path in (image, last_image)
    )
    with _one_thread():
        video = pipeline(
            image=first,
            last_image=last,
            prompt=spec.prompt,
            negative_prompt=spec.negative_prompt,
            height=spec.height_px,
            width=spec.width_px,
            num_frames=spec.num_model_frames,
            num_inference_steps=spec.infer_steps,
            guidance_scale=spec.guidance_scale,
            guidance_scale_2=spec.guidance_scale_2,
            generator=torch.Generator().manual_seed(spec.seed),
            output_type="pt",
            callback_on_step_end=partial(_end_guidance, num_guided_steps=spec.num_guided_steps),
        ).frames
    frames: Tensor = video.permute(0, 2, 1, 3, 4) * 2.0 - 1.0
    return frames


def _end_guidance(
    pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor], num_guided_steps: int
) -> dict[str, Tensor]:
    """Called after each step: the pipeline guides the next one if its scale is above 1."""
    if step + 1 == num_guided_steps:
        pipeline._guidance_scale = 1.0
    return tensors


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads would wait for each other busily; on a busy machine that takes minutes."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _fixed_schedule(spec: JobSpec) -> Any:
    """Return a scheduler that keeps our schedule; the pipeline would set diffusers' default."""
    scheduler = make_scheduler(spec.solver, spec.infer_steps, spec.sample_shift)
    scheduler.set_timesteps = lambda *args, **kwargs: None
    return scheduler
