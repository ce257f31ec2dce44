"""The engine against diffusers: `python -m tests.bench.engine [--json FILE] [--only MODEL]`.

It runs denoising steps of the same transformers in alternating rounds: in one process against
diffusers' stock pipeline, and on eight ranks against diffusers' own context parallelism. It
measures wall time, processor time, collectives, bytes and memory of a step. Then it
measures the VAE, whole and split over eight ranks, and what each way to compute less saves. It
takes a few minutes on two idle cores.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from ranks.demo.build import make_demo_model
from ranks.model.transformer import LatentShape
from tests.bench.engine_ranks import Way, Work, measure
from tests.bench.engine_savings import Saving, measure_savings, print_savings
from tests.bench.engine_steps import Job
from tests.bench.engine_vae import VaeFigures, measure_vae
from tests.bench.larger_model import make_larger_transformer
from tests.bench.report import machine, write_report
from tests.ranks.parallel.world import run_ranks

WORLD_SIZE = 8


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A transformer and the job to denoise with it."""

    make: Callable[[Path], None]
    transformer: str
    """Its folder within the models that are made."""
    shape: LatentShape
    num_steps: int
    """Steps per round."""


CASES = {
    "demo": Case(make=make_demo_model, transformer="transformer", shape=(7, 16, 16), num_steps=10),
    "larger": Case(make=make_larger_transformer, transformer=".", shape=(5, 32, 32), num_steps=1),
}

PARTS = (*CASES, "vae", "savings")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All results: ways by model and name."""

    machine: dict[str, str]
    steps: dict[str, dict[str, Way]]
    vae: dict[str, VaeFigures]
    savings: dict[str, Saving]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", choices=PARTS, help="one model, or another part")
    arguments = parser.parse_args()
    is_wanted = {name: arguments.only in (None, name) for name in PARTS}
    steps = {}
    for name, case in CASES.items():
        if is_wanted[name]:
            steps[name] = steps_of(case)
            print_steps(name, steps[name])
    vae = measure_vae(WORLD_SIZE) if is_wanted["vae"] else {}
    print_vae(vae)
    savings = measure_savings() if is_wanted["savings"] else {}
    if savings:
        print_savings(savings)
    write_report(arguments.json, Figures(machine=machine(), steps=steps, vae=vae, savings=savings))


def steps_of(case: Case) -> dict[str, Way]:
    """Return the results of a step in each way."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model"
        case.make(made)
        job = Job(transformer=str(made / case.transformer), shape=case.shape)
        alone = _on_ranks(1, [(1, 1)], job, case.num_steps)
        together = _on_ranks(WORLD_SIZE, [(1, 8), (2, 4)], job, case.num_steps)
    names = ("ours", "diffusers", "ours, 1 x 8", "ours, 2 x 4", "diffusers, 1 x 8")
    return dict(zip(names, [*alone, *together], strict=True))


def _on_ranks(
    world_size: int, layouts: list[tuple[int, int]], job: Job, num_steps: int
) -> list[Way]:
    work = Work(job=job, layouts=layouts, num_steps=num_steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        run_ranks(world_size, measure, work, path, limit_s=600)
        return msgspec.json.decode(path.read_bytes(), type=list[Way])


def print_steps(model: str, ways: dict[str, Way]) -> None:
    """Print a table with ratios to diffusers on as many ranks, round by round."""
    print(f"\n{model}: a denoising step of both guidance branches")
    print(f"{'':18} {'clock':>17} {'processor':>18} {'collectives':>11} {'sent':>11} {'peak':>10}")
    for name, way in ways.items():
        rival = ways["diffusers, 1 x 8" if "x" in name else "diffusers"]
        print(
            f"{name:18} {_timing(way.wall_s, rival.wall_s)} "
            f"{_timing(way.processor_s, rival.processor_s)} "
            f"{way.traffic.num_collectives:11} {way.traffic.num_bytes / 1e6:8.2f} MB "
            f"{way.peak_bytes / 1e6:7.1f} MB"
        )


def _timing(times_s: list[float], rival_s: list[float]) -> str:
    ratio = statistics.median(ours / theirs for ours, theirs in zip(times_s, rival_s, strict=True))
    return f"{statistics.median(times_s) * 1000:6.0f} ms, {ratio:4.0%}"


def print_vae(figures: dict[str, VaeFigures]) -> None:
    print(f"\n{'VAE':8} {'diffusers':>10} {'ours':>9} {'on 8':>9} {'peak':>20}")
    for name, found in figures.items():
        stock, ours, split = (
            statistics.median(times) for times in (found.stock_s, found.ours_s, found.split_s)
        )
        peaks = f"{found.peak_bytes / 1e6:.0f} -> {found.split_peak_bytes / 1e6:.0f} MB"
        print(f"{name:8} {stock:8.2f} s {ours:7.2f} s {split:7.2f} s {peaks:>20}")


if __name__ == "__main__":
    main()
