"""The JSON log lines that log collectors read."""

import json
import logging

import pytest

from broker.process.log import JsonFormatter, current_job, current_stage

ENTRY = logging.LogRecord("ranks.run", logging.INFO, "run.py", 1, "step %d", (3,), None)


@pytest.mark.parametrize(("process", "rank"), [("g0/rank-3", 3), ("broker", None)])
def test_a_log_line_names_job_rank_and_stage(process: str, rank: int | None) -> None:
    tokens = current_job.set("a" * 32), current_stage.set("denoise")
    try:
        entry = json.loads(JsonFormatter(process).format(ENTRY))
    finally:
        current_job.reset(tokens[0])
        current_stage.reset(tokens[1])
    assert entry["message"] == "step 3"
    assert (entry["process"], entry["rank"]) == (process, rank)
    assert (entry["job_id"], entry["stage"]) == ("a" * 32, "denoise")
