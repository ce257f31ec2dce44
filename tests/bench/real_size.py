"""The 14B model on one device: `python -m tests.bench.real_size --out FILE`.

It uses 1280*720, 81 frames, guidance and random weights in bfloat16, made on the device, with the
environment, the kernels and the warm-up of a rank. It measures, the most important first: two
steps, matrix products and attention by shape and kernel, the element-wise kernels by form, a model
of four layers in all variants, the encoders, the VAE, and the attention cache of all layers.
It takes at most nine minutes. Each figure is a line of JSON that is on disk before the next part
begins; a part that fails or takes too long has its error as its figure, and the exit code is 1.
What needs a package that is not installed is skipped.

It needs a CUDA device with 75 GB, torch and transformers, and of this repository the folders
broker, ranks and tests. On a machine without a package index, fetch wheels elsewhere with
`pip download --no-deps diffusers msgspec importlib_metadata requests` for its Python, and install
the missing ones with `pip install --no-index --no-deps *.whl`.
`--miniature` runs the same parts on a model of a thousandth of the size, on any device.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from ranks.environment import set_environment_defaults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("real_size.jsonl"), help="figures")
    parser.add_argument("--miniature", action="store_true", help="try the benchmark itself")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for all parts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        set_environment_defaults(Path(folder))  # before torch is imported, as a rank does
        from tests.bench.real_parts import run_parts

        failed = run_parts(arguments.out, arguments.budget, is_miniature=arguments.miniature)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
