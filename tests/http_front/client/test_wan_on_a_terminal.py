"""The `wan` command as a person uses it: on a real terminal, with Ctrl-C."""

import msgspec
import pytest

from broker.wire.group_commands import CancelRun, RunJob
from broker.wire.job import JobState
from tests.http_front.full_stack import Stack, Terminal
from tests.http_front.serving import PROMPT

CTRL_C = "\x03"
QUESTION = "Cancel the job? "


def watching(stack: Stack, *words: str) -> Terminal:
    return Terminal(*words, "--server", stack.front.url)


async def test_the_bar_shows_position_stage_step_pace_and_remaining_time(stack: Stack) -> None:
    # The bar is drawn ten times per second, so steps must not be much shorter.
    stack.group.config = msgspec.structs.replace(stack.group.config, step_s=0.05)
    stack.group.hold.clear()
    await stack.submit()
    waiting = await stack.submit()
    async with watching(stack, "watch", waiting) as terminal:
        await terminal.until("queue position 1")
        stack.group.hold.set()
        assert await terminal.end() == 0
        for text in ("denoising", "/30 · 0.0", " s/step · 0:0", " left", "100%", "wan download"):
            assert text in terminal.shown


async def test_ctrl_c_and_y_cancel_the_job(stack: Stack) -> None:
    stack.group.hold.clear()
    words = ("submit", str(stack.image), "--prompt", PROMPT, "--watch")
    async with watching(stack, *words) as terminal:
        lease = (await stack.group.heard(RunJob)).lease
        await terminal.until("encoding")
        terminal.type(CTRL_C)
        await terminal.until(QUESTION)
        terminal.type("y\n")
        await stack.group.heard(CancelRun)
        assert await terminal.end() == 4
        assert "the job ended as Cancelled" in terminal.shown
    assert (await stack.client.status(lease.job_id)).status is JobState.CANCELLED


@pytest.mark.parametrize("answer", ["n\n", "\n"])
async def test_ctrl_c_and_any_other_answer_keep_watching(stack: Stack, answer: str) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    async with watching(stack, "watch", job_id) as terminal:
        await stack.group.heard(RunJob)
        await terminal.until("encoding")
        terminal.type(CTRL_C)
        await terminal.until(QUESTION)
        terminal.type(answer)
        stack.group.hold.set()
        assert await terminal.end() == 0
        assert f"wan download {job_id}" in terminal.shown


async def test_a_second_ctrl_c_leaves_the_job_running_and_says_how_to_watch_it(
    stack: Stack,
) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    async with watching(stack, "watch", job_id) as terminal:
        await terminal.until("encoding")
        terminal.type(CTRL_C)
        await terminal.until(QUESTION)
        terminal.type(CTRL_C)
        assert await terminal.end() == 130
        assert f"wan watch {job_id}" in terminal.shown
        assert "Traceback" not in terminal.shown
    assert (await stack.client.status(job_id)).status is JobState.IN_PROGRESS


async def test_a_job_that_ends_while_the_question_is_open_ends_the_watch(stack: Stack) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    async with watching(stack, "watch", job_id) as terminal:
        await terminal.until("encoding")
        terminal.type(CTRL_C)
        await terminal.until(QUESTION)
        stack.group.hold.set()
        assert await terminal.end() == 0
        assert f"wan download {job_id}" in terminal.shown


async def test_with_json_ctrl_c_asks_nothing(stack: Stack) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    async with watching(stack, "watch", job_id, "--json") as terminal:
        await terminal.until('"status":"InProgress"')
        terminal.type(CTRL_C)
        assert await terminal.end() == 130
        assert QUESTION not in terminal.shown
        assert '"code":"interrupted"' in terminal.shown
