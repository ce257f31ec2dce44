"""The numerical reference: diffusers' own pipeline in one process, with our noise schedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from torch import Tensor
from transformers import CLIPVisionModel, T5TokenizerFast, UMT5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from broker.wire.job import JobSpec
from ranks.model.conditioning import open_image
from ranks.model.weights import fill_transformer, load_vae, meta_transformer
from ranks.model_files.diffusers_folder import read_component
from tests.ranks.schedulers import make_scheduler


def load_reference(folder: Path) -> WanImageToVideoPipeline:
    """Load the stock pipeline with stock attention, in float32 on the CPU."""
    cpu = torch.device("cpu")
    component = read_component(folder / "transformer")
    transformer = meta_transformer(component, torch.float32)
    fill_transformer(transformer, component, cpu)
    pipeline = WanImageToVideoPipeline(
        tokenizer=T5TokenizerFast.from_pretrained(folder / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        image_encoder=CLIPVisionModel.from_pretrained(folder / "image_encoder"),
        image_processor=CLIPImageProcessorPil.from_pretrained(folder / "image_processor"),
        transformer=transformer,
        vae=load_vae(read_component(folder / "vae"), torch.float32, cpu),
        scheduler=make_scheduler("unipc", 20, 5.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reference_frames(pipeline: WanImageToVideoPipeline, spec: JobSpec, image: Path) -> Tensor:
    """Return the frames `[1, 3, T, H, W]`, from -1 to 1, of the stock pipeline."""
    assert spec.seed is not None
    pipeline.scheduler = _fixed_schedule(spec)
    with _one_thread():
        video = pipeline(
            image=open_image(image, spec.width_px, spec.height_px),
            prompt=spec.prompt,
            negative_prompt=spec.negative_prompt,
            height=spec.height_px,
            width=spec.width_px,
            num_frames=spec.num_model_frames,
            num_inference_steps=spec.infer_steps,
            guidance_scale=spec.guidance_scale,
            generator=torch.Generator().manual_seed(spec.seed),
            output_type="pt",
        ).frames
    frames: Tensor = video.permute(0, 2, 1, 3, 4) * 2.0 - 1.0
    return frames


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
