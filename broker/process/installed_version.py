"""The version of this program, as its package states it."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    try:
        return version("wan-ranks")
    except PackageNotFoundError:
        return "not installed"  # A checkout that another Python runs.
