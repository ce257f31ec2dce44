"""Runs a rank: join the group, load the models, serve jobs until the group stops."""

import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from broker.process.child import report
from broker.wire.group_shape import GroupShape
from broker.wire.job import Stage
from ranks.attention_choice import AttentionKernels
from ranks.broker_link import BrokerLink
from ranks.config import RankConfig
from ranks.device import Device, open_device, require_8bit
from ranks.engine import Engine
from ranks.families.family import ModelFamily
from ranks.families.known_families import family_of
from ranks.follower import Follower
from ranks.kernel_report import kernel_report, require_same_attention
from ranks.leader import Leader
from ranks.loras.lora_files import profile_with, with_merged
from ranks.loras.lora_switch import LoraSwitch
from ranks.model.conditioning import Models, load_models
from ranks.model.kernels import KernelForm
from ranks.model.model_memory import measure
from ranks.model_files.components import ModelFiles
from ranks.model_files.memory_estimate import num_image_tokens
from ranks.model_files.opened_model import open_model
from ranks.model_files.profiles import profile_of, with_attention
from ranks.model_files.quantization import Quantize
from ranks.offload import Offload
from ranks.offload_choice import decide_offload
from ranks.parallel.process_group import START_LIMIT, World, join, leave
from ranks.start_failure import reporting_failure
from ranks.warm_up import warm_up, warm_up_vae

logger = logging.getLogger(__name__)


def serve(config: RankConfig, rank: int) -> None:
    """Run one rank until the group stops.

    Raises:
        Exception: If the rank cannot start, or if the ranks are out of step. This process must exit
            with an error then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher handles Ctrl-C
    with reporting_failure(config, rank):
        index = config.first_device + rank
        device = open_device(config.device, index, config.world_size, config.attention)
        link = BrokerLink(config, rank, device)
    with link, torch.inference_mode(), device.attention_order():
        device.lower_priority()  # not of the link, whose thread has started
        with reporting_failure(config, rank):
            engine = start_engine(config, rank, device)
        link.activity.enter(Stage.IDLE)
        report(config.ready_fd, f"ready {rank}")
        if rank == 0:
            Leader(config, engine, link).work()
        else:
            # Only rank 0 acts on SIGTERM; it stops the others at a boundary.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Follower(config, engine, link).work()
        leave()


def start_engine(config: RankConfig, rank: int, device: Device) -> Engine:
    """Join the group and load the models. Returns once every rank has done so."""
    world = join(config.rendezvous, rank, config.world_size, device)
    device = replace(_choose_kernels(world, device), wanted_vae_dtype=config.vae_dtype)
    files = _open_files(config, device)
    profile = profile_of(files, config.model_name or files.family, is_distilled=config.is_distilled)
    profile = with_attention(profile, config.attention)
    capacity_bytes = world.smallest(device.capacity_bytes())
    host_bytes = world.smallest(device.host_bytes(config.world_size))
    offload = decide_offload(config, files, profile, device, capacity_bytes, host_bytes)
    models = _load(files, device, world, offload)
    family = family_of(files)
    _warm_up(family, files, models, device, world)
    memory = measure(
        [transformer.model for transformer in models.transformers],
        models.text_encoder,
        models.image_encoder,
        models.vae,
        num_embedded_images=family.num_embedded_images,
        world_size=config.world_size,
        capacity_bytes=capacity_bytes,
        offload=offload,
        dit_fsdp=config.dit_fsdp,
        t5_fsdp=config.t5_fsdp,
        vae_parallel=config.splits_vae,
    )
    return Engine(
        family,
        models,
        device,
        world,
        GroupShape(
            world_size=config.world_size,
            num_heads=models.transformers[0].num_heads,
            model=profile_with(profile, config.loras, config.merged_loras),
            cfg_size=config.cfg_size,
            ulysses_size=config.ulysses_size,
            memory=memory,
        ),
        LoraSwitch(models.transformers, files, config.loras),
        dit_fsdp=config.dit_fsdp,
        t5_fsdp=config.t5_fsdp,
        vae_parallel=config.splits_vae,
    )


def _open_files(config: RankConfig, device: Device) -> ModelFiles:
    quantize = config.quantize and Quantize(config.quantize, config.quantize_skip)
    files = open_model(Path(config.model_path), list(map(Path, config.transformers)), quantize)
    if form := files.components["transformer"].quantization:
        require_8bit(device.kind, form)
        logger.info("the transformer's blocks multiply in %s", form)
    return with_merged(files, config.merged_loras)


def _load(files: ModelFiles, device: Device, world: World, offload: Offload) -> Models:
    models = load_models(files, device, world.mesh(device), offload)
    logger.info("the VAE computes in %s", str(models.vae.dtype).removeprefix("torch."))
    logger.info(
        "models loaded, %.1f GB in use; weights in host memory: %.1f GB",
        device.memory_bytes() / 1e9,
        models.hosted.host_bytes / 1e9,
    )
    # Ranks may load minutes apart, longer than the collectives of the warm-up wait.
    world.await_all(START_LIMIT)
    return models


def _warm_up(
    family: ModelFamily, files: ModelFiles, models: Models, device: Device, world: World
) -> None:
    image_encoder = files.components.get("image_encoder")
    num_tokens = num_image_tokens(image_encoder and image_encoder.config)
    for index, transformer in enumerate(models.transformers):
        models.hosted.use_transformer(index)
        warm_up(family, transformer, device.torch_device, num_tokens)
    models.hosted.release()
    if device.kernels != "plain" and models.vae.dtype == torch.bfloat16:
        warm_up_vae(models.vae)
    world.await_all(START_LIMIT)


def _choose_kernels(world: World, device: Device) -> Device:
    # Rank 0 chooses for all ranks: the forms round differently.
    forms: tuple[KernelForm, ...] = get_args(KernelForm)
    chosen = forms.index(device.choose_kernels()) if world.rank == 0 else 0
    device = replace(device, kernels=forms[world.from_rank_0(chosen)])
    attentions: tuple[AttentionKernels, ...] = get_args(AttentionKernels)
    of_rank_0 = world.from_rank_0(attentions.index(device.attention))
    require_same_attention(device.attention, attentions[of_rank_0])
    kernels = kernel_report(device)
    logger.info("element-wise: %s; attention: %s", kernels.element_wise, kernels.attention)
    return device
