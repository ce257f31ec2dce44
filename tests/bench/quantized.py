"""8-bit linears against plain ones: `python -m tests.bench.quantized [--json FILE]`.

For each form: the PSNR of the demo's video against the plain one, and the bytes of its transformer;
the error and the time of a pass through a model of real proportions with random weights; and, by
count, what the 14B model holds on each rank. It takes a few minutes on two idle cores.
"""

import argparse
import tempfile
import time
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from broker.wire.job import JobSpec
from broker.wire.model_profile import EightBit
from ranks.demo.build import make_demo_model
from ranks.device import Device
from ranks.model.weights import load_transformer
from ranks.model_files.architecture import shapes_of
from ranks.model_files.components import WEIGHTED, Component, ComponentName, ModelFiles
from ranks.model_files.diffusers_folder import read_component
from ranks.model_files.quantization import Quantize, with_quantization
from ranks.model_files.weight_files import StoredWeight
from ranks.model_files.weight_memory import NUM_RANKS, weight_bytes
from tests.bench.larger_model import make_larger_transformer
from tests.bench.report import machine, write_report
from tests.ranks.conftest import draw_image
from tests.ranks.model.real_models import config_of
from tests.ranks.one_pass import velocity
from tests.ranks.parallel.world import run_ranks
from tests.ranks.quantized_videos import FORMS, make_videos, psnr_db, read_video

SPEC = JobSpec(
    prompt="A small dog walks slowly at sunset.",
    image_size="64*64",
    num_frames=25,
    infer_steps=20,
    seed=7,
)
NUM_PASSES = 3


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one form costs and saves."""

    form: EightBit | None
    psnr_db: float | None
    """Of the demo's video; None for the plain one."""
    demo_bytes: int
    """Of the demo's transformer, which is in float32 where it is plain."""
    relative_error: float
    """Of a pass through the larger model."""
    pass_s: float
    """The quickest of its passes."""
    gib_per_rank: dict[int, float]
    """Weights of Wan2.1 I2V 14B, all components, by number of ranks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    show(figures)
    write_report(arguments.json, {"machine": machine(), "forms": figures})


def measure(folder: Path) -> list[Figures]:
    make_demo_model(folder / "demo")
    make_larger_transformer(folder / "larger")
    image = folder / "image.png"
    draw_image(image)
    run_ranks(1, make_videos, folder / "demo", image, SPEC, folder, limit_s=1800)
    plain, _ = read_video(folder, None)
    passes = {form: pass_of(folder / "larger", form) for form in FORMS}
    figures = []
    for form in FORMS:
        frames, num_bytes = read_video(folder, form)
        predicted, pass_s = passes[form]
        figures.append(
            Figures(
                form=form,
                psnr_db=None if form is None else psnr_db(frames, plain),
                demo_bytes=num_bytes,
                relative_error=relative_error(predicted, passes[None][0]),
                pass_s=pass_s,
                gib_per_rank={n: weight_bytes(real_files(form), n) / 2**30 for n in NUM_RANKS},
            )
        )
    return figures


@torch.inference_mode()
def pass_of(folder: Path, form: EightBit | None) -> tuple[Tensor, float]:
    files = files_of({"transformer": read_component(folder)}, form)
    device = Device(kind="cpu", index=0)
    transformer = load_transformer(files.components["transformer"], device, None)
    predicted = velocity(transformer)
    times_s = []
    for _ in range(NUM_PASSES):
        begun_s = time.perf_counter()
        velocity(transformer)
        times_s.append(time.perf_counter() - begun_s)
    return predicted, min(times_s)


def real_files(form: EightBit | None) -> ModelFiles:
    """Return Wan2.1 I2V 14B as its configs describe it, without files."""
    components: dict[ComponentName, Component] = {}
    for name in WEIGHTED["wan2.1-i2v"]:
        config = config_of(name)
        weights = {
            weight: StoredWeight(Path(), weight, shape, "BF16")
            for weight, shape in shapes_of(name, config).items()
        }
        components[name] = Component(place=name, config=config, weights=weights)
    return files_of(components, form)


def files_of(components: dict[ComponentName, Component], form: EightBit | None) -> ModelFiles:
    files = ModelFiles(
        place=Path(),
        family="wan2.1-i2v",
        components=components,
        tokenizer=Path(),
        image_processor=None,
    )
    return with_quantization(files, None if form is None else Quantize(form))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def show(figures: list[Figures]) -> None:
    print(f"{'':6} {'demo: PSNR':>11} {'bytes':>8} {'larger: error':>14} {'pass':>9}", end="")
    print("".join(f"{f'14B on {number}':>12}" for number in NUM_RANKS))
    for found in figures:
        psnr = "" if found.psnr_db is None else f"{found.psnr_db:.1f} dB"
        print(
            f"{found.form or 'plain':6} {psnr:>11} {found.demo_bytes / 1e6:5.2f} MB "
            f"{found.relative_error:14.2%} {found.pass_s * 1000:6.0f} ms"
            + "".join(f"{gib:8.2f} GiB" for gib in found.gib_per_rank.values())
        )


if __name__ == "__main__":
    main()
