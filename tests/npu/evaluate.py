"""`python -m tests.npu.evaluate`: evaluates expressions on the stand-in, from JSON to JSON."""

import json
import sys

import torch


def evaluate(expression: str) -> str:
    """Return the value, or the first line of the error."""
    x = torch.ones(2, 2, device="npu:1")
    try:
        return str(eval(expression, {"torch": torch, "x": x}))
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def main() -> None:
    torch.accelerator.set_device_index(1)
    expressions = json.load(sys.stdin)
    json.dump({text: evaluate(text) for text in expressions}, sys.stdout)


if __name__ == "__main__":
    main()
