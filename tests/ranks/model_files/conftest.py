from pathlib import Path

import pytest

from ranks.demo.original_layout import write_original_layout


@pytest.fixture(scope="session")
def original_folder(demo_folder: Path) -> Path:
    """The demo model in the original layout; not to be changed."""
    folder = demo_folder.parent / "original"
    write_original_layout(demo_folder, folder)
    return folder
