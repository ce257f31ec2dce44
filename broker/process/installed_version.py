"""The version of this program, as its package states it."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    for name in ("wan-ranks", "wan-client"):
        with suppress(PackageNotFoundError):
            return version(name)
    return "not installed"  # a checkout that another Python runs
