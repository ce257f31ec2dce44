"""The `wan` command as scripts use it: options, output, JSON and exit codes."""

import asyncio
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from broker.wire.errors import ResultWarning
from broker.wire.group_commands import RunJob
from broker.wire.job import JobState
from http_front.client.exit_codes import MEANINGS, ExitCode
from http_front.client.status_text import duration
from http_front.video.schema import MAX_LISTED
from tests.http_front.full_stack import LIMIT_S, Stack, start_wan
from tests.http_front.serving import PROMPT
from tests.stub_group import FAKE_VIDEO

ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


async def test_wan_submit_watches_and_downloads(stack: Stack, tmp_path: Path) -> None:
    video = tmp_path / "out.mp4"
    code, out, err = await stack.wan(
        *("submit", str(stack.image), "--prompt", PROMPT, "--frames", "24", "--steps", "20"),
        *("--no-vae-parallel", "--priority", "3", "--watch", "--output", str(video)),
    )
    assert code == 0, err
    job_id, shown = out.split()
    assert (len(job_id), shown) == (32, str(video))
    assert video.read_bytes() == FAKE_VIDEO
    assert "denoising" in err
    command = await stack.group.heard(RunJob)
    assert (command.spec.num_frames, command.spec.vae_parallel) == (24, False)
    _, out, _ = await stack.wan("status", job_id, "--json")
    assert json.loads(out)["priority"] == 3


async def test_wan_takes_and_shows_chinese_in_a_locale_without_it(stack: Stack) -> None:
    prompt = "一只猫在雪地里奔跑 慢镜头 🐈"
    words = ("submit", str(stack.image), "--prompt", prompt)
    code, out, err = await stack.wan(*words, **ASCII_LOCALE)
    assert code == 0, err
    code, out, err = await stack.wan("list", **ASCII_LOCALE)
    assert (code, err) == (0, "")
    assert prompt.encode("ascii", "backslashreplace").decode() in out
    code, out, err = await stack.wan("list", "--json", **ASCII_LOCALE)
    assert (code, err) == (0, "")
    assert json.loads(out)["jobs"][0]["settings"]["prompt"] == prompt


async def test_wan_refuses_text_that_no_character_set_explains(stack: Stack) -> None:
    gbk = os.fsdecode("一只白色的猫在雪地里奔跑".encode("gbk"))
    code, out, err = await stack.wan("submit", str(stack.image), "--prompt", gbk, **ASCII_LOCALE)
    assert (code, out) == (2, "")
    assert "is neither ascii, which LANG and LC_ALL ask for, nor UTF-8" in " ".join(err.split())


async def test_wan_names_a_video_in_a_folder_after_its_job(stack: Stack, tmp_path: Path) -> None:
    job_id = await stack.submit()
    await stack.end_of(job_id)
    code, out, err = await stack.wan("download", job_id, "--output", str(tmp_path))
    video = tmp_path / f"{job_id}.mp4"
    assert (code, out, err) == (0, f"{video}\n", "")
    assert video.read_bytes() == FAKE_VIDEO


async def test_wan_watch_says_that_a_video_looks_wrong(stack: Stack) -> None:
    stack.group.warning = ResultWarning.SINGLE_COLOUR
    code, _, err = await stack.wan("watch", await stack.submit())
    assert code == 0
    assert "the video looks wrong: single_colour" in err


async def test_wan_watch_prints_every_change_as_json(stack: Stack) -> None:
    job_id = await stack.submit()
    code, out, err = await stack.wan("watch", job_id, "--json")
    updates = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert updates[-1]["status"] == "Succeed"
    assert {update["stage"] for update in updates} >= {"encode", "denoise", "decode"}


async def test_wan_status_cancel_and_download(stack: Stack, tmp_path: Path) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    code, out, _ = await stack.wan("status", job_id)
    assert code == 0
    assert "status" in out
    assert (await stack.wan("cancel", job_id))[:2] == (0, "cancelled\n")
    code, out, _ = await stack.wan("status", job_id, "--json")
    assert json.loads(out)["status"] == "Cancelled"
    code, _, err = await stack.wan("download", job_id, "--output", str(tmp_path / "x.mp4"))
    assert (code, err) == (2, "wan: there is no video: the job is Cancelled\n")
    assert sorted(os.listdir(tmp_path)) == ["cat.png"]


async def test_output_implies_watching_and_several_images_and_seeds_make_as_many_jobs(
    stack: Stack, tmp_path: Path
) -> None:
    images = [str(stack.image), str(stack.image.with_name("dog.png"))]
    shutil.copy(*images)
    videos = tmp_path / "videos"
    videos.mkdir()
    words = ("submit", *images, "--prompt", PROMPT, "--seed", "7", "--seeds", "2")
    code, out, err = await stack.wan(*words, "--output", str(videos))
    assert code == 0, err
    job_ids, files = out.split()[:4], out.split()[4:]
    assert files == [str(videos / f"{job_id}.mp4") for job_id in job_ids]
    _, page = await stack.front.get("/video/list?order=asc")
    assert [job["settings"]["seed"] for job in page["jobs"]] == [7, 8, 7, 8]
    code, _, err = await stack.wan(*words, "--output", str(tmp_path / "x.mp4"))
    assert code == 2
    assert "for several videos it must be a folder" in " ".join(err.split())


async def test_wan_deletes_a_job(stack: Stack) -> None:
    job_id = await stack.submit()
    assert await stack.wan("delete", job_id) == (0, "deleted\n", "")
    assert (await stack.wan("status", job_id))[0] == 2


async def test_wan_says_its_version() -> None:
    code, out, _ = await run_wan("--version")
    assert code == 0
    assert out.startswith("wan ")


async def test_wan_status_reads_as_a_person_would_write_it(stack: Stack) -> None:
    job_id = await stack.submit()
    await stack.end_of(job_id)
    _, out, _ = await stack.wan("status", job_id, TZ="UTC")
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (shown["status"], shown["progress"], shown["attempt"]) == ("Succeed", "100%", "1")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", shown["submitted"])
    assert "None" not in out
    assert "{" not in out


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.04 s"), (3.84, "3.84 s"), (59.4, "59 s"), (98.5, "1 min 38 s"), (3700, "1 h 1 min")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp1252"])
async def test_wan_writes_everything_in_any_character_set(
    stack: Stack, tmp_path: Path, encoding: str
) -> None:
    """Neither a cat's emoji, nor a file's name that is no text, ends in a traceback."""
    variables = ASCII_LOCALE | {"PYTHONIOENCODING": encoding}
    job_id = await stack.submit("一只猫 \u2013 une très belle image 🐈")
    await stack.end_of(job_id)
    file = os.fsdecode(bytes(tmp_path / "x") + b"\xff\xd6\xd0.mp4")
    for words in (
        *(("list",), ("status", job_id), ("watch", job_id), ("models",), ("--help",)),
        ("download", job_id, "--output", file),
        ("download", job_id, "--output", file, "--json"),
    ):
        process = await start_wan(*words, "--server", stack.front.url, **variables)
        async with asyncio.timeout(LIMIT_S):
            _, err = await process.communicate()
        assert (process.returncode, b"Traceback" in err) == (0, False), (words, err)
    assert await asyncio.to_thread(Path(file).read_bytes) == FAKE_VIDEO


async def test_the_exit_code_of_wan_says_how_a_job_ended(stack: Stack) -> None:
    stack.group.behaviour = "fail"
    failing = await stack.submit()
    code, _, err = await stack.wan("watch", failing)
    assert code == 1
    assert "the stub was set to fail" in err
    stack.group.hold.clear()
    cancelled = await stack.submit()
    await stack.client.cancel(cancelled)
    assert (await stack.wan("watch", cancelled))[0] == 4


async def run_wan(*words: str) -> tuple[int | None, str, str]:
    """Run the `wan` command without a server."""
    process = await start_wan(*words)
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "0" * 32), "wan: no job has this id"),
        (("watch", "0" * 32), "wan: no job has this id"),
        (("submit", "no-such-file.png", "--prompt", PROMPT), "no-such-file.png"),
        (("submit", "x.png", "--prompt", PROMPT, "--frames", "1000"), "num_frames is"),
    ],
)
async def test_wan_explains_an_error(stack: Stack, words: tuple[str, ...], message: str) -> None:
    code, out, err = await stack.wan(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


async def test_without_a_server_wan_exits_with_3() -> None:
    code, _, err = await run_wan("status", "0" * 32, "--server", "http://127.0.0.1:9")
    assert code == 3
    assert err.startswith("wan: no response from http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WAN_SERVER", "127.0.0.1:9", "'127.0.0.1:9' is not a server URL such as http://127"),
        ("WAN_API_KEY", "wan_a\nwan_b", "WAN_API_KEY holds a line break"),
    ],
)
async def test_wan_names_the_variable_with_an_invalid_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    code, _, err = await run_wan("status", "0" * 32)
    assert code == 2
    assert message in err
    assert name in err
    assert "Traceback" not in err


async def test_wan_lists_jobs_newest_first_and_says_how_to_see_older_jobs(
    stack: Stack,
) -> None:
    stack.group.hold.clear()
    jobs = [await stack.submit(f"\x1b[31mA cat no. {n} walks") for n in range(3)]
    code, out, err = await stack.wan("list", "--limit", "2")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines] == ["id", jobs[2], jobs[1]]
    assert "InQueue" in lines[1]
    assert "A cat no. 2 walks" in lines[1]
    assert "\x1b" not in out, "a prompt has written to the terminal"
    assert err == f"older jobs: wan list --after {jobs[1]}\n"
    code, out, err = await stack.wan("list", "--after", jobs[1], "--json")
    assert [job["requestId"] for job in json.loads(out)["jobs"]] == [jobs[0]]
    assert (code, err, json.loads(out)["has_more"]) == (0, "", False)


async def test_a_long_list_is_fetched_in_pages(stack: Stack) -> None:
    stack.group.hold.clear()
    jobs = [await stack.submit() for _ in range(MAX_LISTED + 1)]
    found = await stack.client.jobs(MAX_LISTED + 50)
    assert [job.requestId for job in found.jobs] == jobs[::-1]
    assert not found.has_more


async def test_wan_list_says_when_there_are_no_jobs(stack: Stack) -> None:
    assert await stack.wan("list") == (0, "no jobs\n", "")


async def test_with_json_an_error_has_the_form_of_the_servers_errors(stack: Stack) -> None:
    code, out, err = await stack.wan("status", "0" * 32, "--json")
    assert (code, out) == (2, "")
    error = json.loads(err)["error"]
    assert (error["code"], error["field"]) == ("job_not_found", None)
    words = ("submit", "x.png", "--prompt", PROMPT, "--frames", "1000", "--json")
    code, out, err = await stack.wan(*words)
    assert (code, json.loads(err)["error"]["field"]) == (2, "num_frames")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("frobnicate",), "argument COMMAND: invalid choice: 'frobnicate'"),
        (("status",), "the following arguments are required: ID; see wan status --help"),
        (("list", "--limit", "0"), "argument --limit: '0' is not a whole number of at least 1"),
    ],
)
async def test_a_wrong_command_line_exits_with_2_and_an_explanation(
    words: tuple[str, ...], message: str
) -> None:
    assert (await run_wan(*words))[:2] == (2, "")
    assert message in (await run_wan(*words))[2]
    error = json.loads((await run_wan(*words, "--json"))[2])["error"]
    assert error["code"] == "usage"
    assert message in error["message"]


async def test_the_help_lists_every_exit_code() -> None:
    code, out, _ = await run_wan("--help")
    assert code == 0
    for exit_code in ExitCode:
        assert f"\n  {exit_code:<4} {MEANINGS[exit_code]}\n" in out


async def test_wan_doctor_takes_the_options_of_the_launcher() -> None:
    code, out, err = await run_wan("doctor", "--nproc", "0")
    assert (code, out) == (2, "")
    assert err.startswith("wan doctor: --nproc is '0'")


async def test_ctrl_c_without_a_terminal_leaves_the_job_running_and_says_so(stack: Stack) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    process = await start_wan("watch", job_id, "--server", stack.front.url)
    assert process.stderr is not None
    assert await process.stderr.readline()  # the watch has started
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT_S):
        _, err = await process.communicate()
    assert process.returncode == 130
    assert f"wan watch {job_id}" in err.decode()
    assert b"Traceback" not in err
    stack.group.hold.set()
    assert (await stack.end_of(job_id)).status is JobState.SUCCEED
