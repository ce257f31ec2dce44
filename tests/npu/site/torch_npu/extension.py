"""The compiled half of the stand-in, `tests/npu/device.cpp`."""

import importlib.util
import os
from importlib.machinery import ExtensionFileLoader
from typing import Any

_NAME = "npu_stand_in"


def _load() -> Any:
    loader = ExtensionFileLoader(_NAME, os.environ["NPU_STAND_IN_LIBRARY"])
    spec = importlib.util.spec_from_loader(_NAME, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


native: Any = _load()
