"""The peaks of the allocator with the 14B model at 1280*720, beside the estimate.

Nothing but the weights' values is missing: the real loader, the real run from prompt to frames, on
1, 2, 4 and 8 ranks. A job goes on after step 18 of 20, so that two steps are taken: with the
attention cache, one that keeps and one that reuses.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import safetensors.torch
import torch

from broker.wire.group_shape import choose_layout, job_bytes
from broker.wire.job import JobSpec, Stage
from broker.wire.model_profile import ModelProfile
from ranks.engine import Engine
from ranks.model.conditioning import draw_noise
from ranks.sampling.checkpoint import State
from ranks.sampling.denoise import Denoiser
from ranks.sampling.solver import make_solver
from tests.bench.job_memory import SETTINGS
from tests.rehearsal.engine_rank import PeakObserver, make_video, open_engine, runtime_of, say
from tests.rehearsal.host_memory import watch_host_memory
from tests.rehearsal.rank_processes import make_demo_model, run_ranks
from tests.rehearsal.sparse_model import make_sparse_model

WORLD_SIZES = (1, 2, 4, 8)
TOLERANCE = 1.05
"""How much more than the estimate may be allocated. What is reserved is shown, not judged: on a
device that has room the allocator keeps what it no longer needs."""
FIRST_STEP = 18
NUM_STEPS = 20
SPEC = JobSpec(
    prompt="A small sailing boat drifts across a calm bay",
    infer_steps=NUM_STEPS,
    seed=7,
    start_step=FIRST_STEP,
    attentioncache_interval=4,
    end_step=NUM_STEPS,
)
STAGES = (Stage.ENCODE, Stage.DENOISE, Stage.DECODE)
GIB = 2**30


def main() -> int:
    """Run a rank if the arguments name one, all of them otherwise."""
    kind, *rest = sys.argv[1:]
    if len(rest) > 1:
        rank, world_size = (int(number) for number in rest[:2])
        folder, model_folder, offload = rest[2:]
        return _be_rank(kind, rank, world_size, Path(folder), Path(model_folder), offload)
    sizes = [int(size) for size in rest[0].split(",")] if rest else WORLD_SIZES
    head = ["kind", "ranks", "layout", "set", "weights", "encode", "denoise", "decode"]
    say(f"| {' | '.join([*head, 'estimate', 'allocated', 'reserved'])} |")
    say("| --- " * 11 + "|")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        shared = Path(name)
        vae_dtype = torch.bfloat16 if kind == "npu" else torch.float32
        make_sparse_model(shared / "model", make_demo_model(shared), vae_dtype)
        safetensors.torch.save_file(state_after(FIRST_STEP), shared / "state.safetensors")
        module = "tests.rehearsal.parts.memory"
        # Large enough that no job is refused: what is asked is what each one takes.
        large = {"REHEARSAL_DEVICE_GIB": "256"}
        return sum(
            run_ranks(module, kind, size, str(shared), offload, **large)
            for size in sizes
            for offload in (("none", "encoders") if size == 1 else ("none",))
        )


def state_after(num_steps: int) -> State:
    """Return the state of a run whose predictions were all zero."""
    solver = make_solver(SPEC.solver, NUM_STEPS, SPEC.sample_shift)
    frames, width, height = SPEC.num_model_frames // 4 + 1, SPEC.width_px // 8, SPEC.height_px // 8
    denoiser = Denoiser(solver, draw_noise(7, (1, 16, frames, height, width)))
    for step in range(num_steps):
        velocity = torch.zeros_like(denoiser.latents)
        denoiser.latents = solver.advance(step, velocity, denoiser.latents)
        denoiser.step += 1
    return {name: tensor.contiguous() for name, tensor in denoiser.state().items()}


def cases(world_size: int, offload: str) -> Iterator[tuple[str, JobSpec]]:
    """Yield what is set in a job, and the job: each setting, and two with the attention cache."""
    settings = list(SETTINGS.items()) if world_size > 1 else [("none", ())]
    if offload != "none":
        settings = [(f"{name}, {offload} on the host", flags) for name, flags in settings]
    with_cache = (settings[1], settings[-1]) if world_size > 1 else settings
    for (name, flags), is_cached in [
        *((setting, False) for setting in settings),
        *((setting, True) for setting in with_cache),
    ]:
        changes = dict.fromkeys(flags, True) | {"use_attentioncache": is_cached}
        yield f"{name}{', cache' if is_cached else ''}", msgspec.structs.replace(SPEC, **changes)


def _be_rank(
    kind: str, rank: int, world_size: int, folder: Path, shared: Path, offload: str
) -> int:
    with watch_host_memory() as host:
        engine = open_engine(kind, rank, world_size, folder, shared / "model", offload)
    say(
        f"rank {rank} of {world_size}: {host.peak / GIB:.2f} GiB of host memory at the most while "
        f"loading, {host.before / GIB:.2f} before"
    )
    num_failed = 0
    with torch.inference_mode(), engine.device.attention_order():
        for name, spec in cases(world_size, offload):
            engine.set_weight_sharding(msgspec.structs.replace(spec, dit_fsdp=True, t5_fsdp=True))
            engine.forget_inputs()
            engine.device.free_memory()
            weights = runtime_of(engine.device).memory_allocated()
            noted = make_video(engine, spec, shared / "state.safetensors")
            num_failed += _tell(engine, name, spec, weights, noted)
    os._exit(num_failed)


def _tell(engine: Engine, name: str, spec: JobSpec, weights: int, noted: PeakObserver) -> int:
    """Print a row; return 1 if the estimate is exceeded, 0 otherwise."""
    memory = engine.shape.memory
    assert memory is not None
    cfg_size, ulysses_size = choose_layout(spec, engine.shape)
    estimate = job_bytes(spec, memory, cfg_size, ulysses_size, ModelProfile())
    peaks = [noted.peaks[stage] for stage in STAGES]
    allocated = max(peak.allocated for peak in peaks)
    reserved = max(peak.reserved for peak in peaks)
    is_exceeded = allocated > TOLERANCE * estimate
    if engine.world.rank == 0:
        figures = [weights, *(peak.allocated for peak in peaks), estimate, allocated, reserved]
        layout = f"{cfg_size} x {ulysses_size}"
        labels = [engine.device.kind, str(engine.world.world_size), layout, name]
        numbers = [f"{figure / GIB:.1f}" for figure in figures]
        say(f"| {' | '.join([*labels, *numbers])} |{' EXCEEDED' if is_exceeded else ''}")
    return int(is_exceeded)


if __name__ == "__main__":
    sys.exit(main())
