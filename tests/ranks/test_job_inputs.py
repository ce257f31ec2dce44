"""The files of a run, fetched before it begins."""

from pathlib import Path

import pytest

from broker.store.folder import FolderStore
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import RunJob
from broker.wire.job import JobSpec
from broker.wire.job_view import Lease
from ranks.errors import JobError
from ranks.job_inputs import JobInputs

LIMIT_S = 30.0


@pytest.mark.parametrize(
    ("there", "is_complete"),
    [
        (("first.ppm", "last.ppm"), True),
        (("first.ppm",), False),
        (("last.ppm",), False),
    ],
)
def test_a_run_needs_both_images_of_its_job(
    tmp_path: Path, there: tuple[str, ...], is_complete: bool
) -> None:
    store = FolderStore(tmp_path)
    store.prepare()
    for name in there:
        (tmp_path / "inputs" / name).write_bytes(b"an image")
    job = RunJob(
        lease=Lease(group="g0", epoch=1, job_id="0" * 32, attempt=1),
        spec=JobSpec(prompt="from one picture to another"),
        image="first.ppm",
        last_image="last.ppm",
    )
    fetching = JobInputs(store, job, lambda: None, lambda _: None, "").begin()
    if is_complete:
        assert fetching.result(LIMIT_S) is False  # there is no checkpoint
        return
    with pytest.raises(JobError) as raised:
        fetching.result(LIMIT_S)
    assert raised.value.code is ErrorCode.IMAGE_INVALID
