"""The `wan` commands for jobs, from submit to download, and for the models of a server."""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.process.log import one_line
from broker.wire.job import JobSpec, JobState
from broker.wire.model_profile import ModelProfile
from http_front.client.client import WanClient
from http_front.client.command_parser import Commands
from http_front.client.exit_codes import ExitCode, UsageError
from http_front.client.output import Output
from http_front.client.status_text import kept_text, status_text
from http_front.client.watching import Watch
from http_front.openai.openai_schema import ModelList
from http_front.video.field_check import check
from http_front.video.job_status import JobEntry
from http_front.video.schema import SubmitByFile

DEFAULT_SERVER = "http://127.0.0.1:8088"
DEFAULT_LISTED = 20
_MIN_TABLE_WIDTH = 100

_SHORT_NAMES = {
    "image_size": "--size",
    "num_frames": "--frames",
    "guidance_scale": "--guidance",
    "infer_steps": "--steps",
    "sample_solver": "--solver",
    "sample_shift": "--shift",
}
_UNDECODED = re.compile("[\udc80-\udcff]")
"""Bytes of an argument that the locale has no characters for."""
_SUBMIT_FIELDS = (*JobSpec.__struct_fields__, "priority")
_EXIT_OF = {
    JobState.SUCCEED: ExitCode.DONE,
    JobState.FAILED: ExitCode.FAILED,
    JobState.CANCELLED: ExitCode.CANCELLED,
}


def add_parsers(commands: Commands) -> None:
    """Add the commands. The options of `submit` are made from the fields of a request."""
    submit = commands.add_parser("submit", help="submit a job")
    submit.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="image file or http(s) URL; several images make as many jobs",
    )
    for field in msgspec.structs.fields(SubmitByFile):
        if field.name in _SUBMIT_FIELDS and field.name != "loras":
            _add_field(submit, field)
    submit.add_argument(
        "--lora",
        dest="loras",
        metavar="NAME@STRENGTH",
        type=_lora,
        action="append",
        help="LoRA of the server, see wan models; without @STRENGTH, 1; may be repeated",
    )
    submit.add_argument(
        "--last-image", help="the last frame, for models that take one: file or http(s) URL"
    )
    submit.add_argument("--watch", action="store_true", help="show progress until the job ends")
    submit.add_argument(
        "--output", type=Path, help="wait for the video and save it: a file or a folder"
    )
    submit.add_argument(
        "--seeds",
        metavar="N",
        type=_count,
        default=1,
        help="make N jobs of each image, each with another seed: random, or from --seed upwards",
    )
    listing = commands.add_parser("list", help="list your jobs, newest first")
    listing.add_argument(
        "--limit",
        type=_count,
        default=DEFAULT_LISTED,
        help=f"maximum number of jobs; default: {DEFAULT_LISTED}",
    )
    listing.add_argument("--after", metavar="ID", help="list only jobs older than this one")
    models = commands.add_parser("models", help="list the models of the server")
    for parser in (submit, listing, models):
        _add_server(parser)
    for name, text in (
        ("status", "show the state of a job"),
        ("watch", "show progress until the job ends"),
        ("cancel", "cancel a job"),
        ("keep", "keep a video whatever its age, until it is deleted"),
        ("delete", "delete a job and its files"),
        ("download", "download the video of a finished job"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("id", metavar="ID", help="job id, as printed by submit")
        if name == "keep":
            command.add_argument(
                "--off", action="store_true", help="let it expire again, as if it ended now"
            )
        if name in ("watch", "download"):
            command.add_argument("--output", type=Path, help="file or folder for the video")
        _add_server(command)


async def run(options: argparse.Namespace, output: Output) -> ExitCode:
    """Run a job command.

    Raises:
        ClientError: If the server refuses or does not respond.
        FrontError: If a field of the job is not valid.
        LeftRunningError: If Ctrl-C ended a watch.
        UsageError: If the API key holds characters that no key has.
    """
    # The API key is not an option, because all users of a machine can see its command lines.
    async with WanClient(options.server, _api_key()) as client:
        match options.command:
            case "submit":
                return await _submit(client, options, output)
            case "list":
                return await _list(client, options, output)
            case "models":
                models = await client.models()
                output.result(models, _model_table(models) if models.data else "no models")
            case "status":
                status = await client.status(options.id)
                output.result(status, status_text(status))
            case "watch":
                return await _watch(client, options.id, options.output, output)
            case "cancel":
                await client.cancel(options.id)
                output.result({"requestId": options.id, "status": "Cancelled"}, "cancelled")
            case "keep":
                kept = await client.keep(options.id, not options.off)
                output.result(kept, kept_text(kept))
            case "delete":
                await client.delete(options.id)
                output.result({"requestId": options.id, "deleted": True}, "deleted")
            case _:  # download; argparse refuses anything else
                await _download(client, options.id, options.output or Path(), output)
    return ExitCode.DONE


async def _submit(client: WanClient, options: argparse.Namespace, output: Output) -> ExitCode:
    asked = {name: getattr(options, name) for name in _SUBMIT_FIELDS}
    given = {name: _decoded(value) for name, value in asked.items() if value is not None}
    body = check(given, SubmitByFile)
    fields: dict[str, object] = {name: msgspec.to_builtins(getattr(body, name)) for name in given}
    last_image = None if options.last_image is None else _image(options.last_image)
    job_ids = []
    for image, seed in _takes(options, body.seed):
        asked_now = fields if seed is None else fields | {"seed": seed}
        answer = await client.request_job(_image(image), asked_now, last_image=last_image)
        if answer.notice is not None:
            output.note(f"wan: {answer.notice}")
        output.result(answer, answer.requestId)
        job_ids.append(answer.requestId)
    if not (options.watch or options.output):
        return ExitCode.DONE
    ends = [await _watch(client, job_id, options.output, output) for job_id in job_ids]
    return next((end for end in ends if end is not ExitCode.DONE), ExitCode.DONE)


def _takes(options: argparse.Namespace, seed: int | None) -> list[tuple[str, int | None]]:
    """Return the image and the seed of each job; None lets the server draw the seed.

    Raises:
        UsageError: If several videos would get the name of one file.
    """
    seeds = [None if seed is None else seed + n for n in range(options.seeds)]
    takes = [(image, each) for image in options.images for each in seeds]
    if len(takes) > 1 and options.output is not None and not options.output.is_dir():
        raise UsageError(f"--output is {options.output}; for several videos it must be a folder")
    return takes


def _image(text: str) -> Path | str:
    is_url = text.startswith(("http://", "https://", "data:"))
    return text if is_url else Path(text)


def _decoded(value: object) -> object:
    """Decode as UTF-8 what the locale's character set could not decode."""
    if not isinstance(value, str) or not _UNDECODED.search(value):
        return value
    try:
        return os.fsencode(value).decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{value!r} is neither {sys.getfilesystemencoding()}, which LANG and LC_ALL ask for, "
            "nor UTF-8"
        ) from error


async def _watch(client: WanClient, job_id: str, target: Path | None, output: Output) -> ExitCode:
    last = await Watch(client, job_id, output).run()
    if last.status is not JobState.SUCCEED:
        reason = f": {last.reason}" if last.reason else ""
        output.note(f"wan: the job ended as {last.status.value}{reason}")
        return _EXIT_OF[last.status]
    if last.warning is not None:
        output.note(f"wan: the video looks wrong: {last.warning.value}")
    if target is not None:
        await _download(client, job_id, target, output)
    else:
        output.note(f"done; to get the video: wan download {job_id}")
    return _EXIT_OF[last.status]


async def _download(client: WanClient, job_id: str, target: Path, output: Output) -> None:
    file = _video_file(target, job_id)
    await client.download(job_id, file)
    shown = os.fsencode(file).decode(errors="backslashreplace")
    output.result({"requestId": job_id, "video": shown}, shown)


def _video_file(target: Path, job_id: str) -> Path:
    """Return the target file; in a folder, the file is named after the job."""
    return target / f"{job_id}.mp4" if target.is_dir() else target


async def _list(client: WanClient, options: argparse.Namespace, output: Output) -> ExitCode:
    listed = await client.jobs(options.limit, options.after)
    output.result(listed, _table(listed.jobs) if listed.jobs else "no jobs")
    if listed.has_more:
        output.note(f"older jobs: wan list --after {listed.jobs[-1].requestId}")
    return ExitCode.DONE


def _table(jobs: Iterable[JobEntry]) -> str:
    """Return the jobs as a table. Only prompts are shortened to fit the terminal."""
    table = Table("id", "state", "done", "submitted", "prompt", box=None, pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for job in jobs:
        submitted = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created_at))
        prompt = one_line(job.settings.prompt) if job.settings else ""
        row = (job.requestId, _state(job), f"{job.progress:.0%}", submitted)
        table.add_row(*row, Text(prompt, no_wrap=True, overflow="ellipsis"))
    return _as_lines(table)


def _model_table(models: ModelList) -> str:
    columns = ("model", "default", "ready", "size", "frames", "fps", "steps", "last frame", "LoRAs")
    table = Table(*columns, box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for model in models.data:
        table.add_row(
            model.id,
            "yes" if model.default else "no",
            "yes" if model.ready else "no",
            model.image_size,
            f"{model.num_frames} ({model.min_frames}-{model.max_frames})",
            str(model.frames_per_second),
            f"{model.infer_steps} ({model.min_steps}-{model.max_steps})",
            model.last_image,
            ", ".join(lora.name for lora in model.loras) or "none",
        )
    return _as_lines(table)


def _as_lines(table: Table) -> str:
    console = Console()
    console.width = max(console.width, _MIN_TABLE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")


def _state(job: JobEntry) -> str:
    stage = f" ({job.stage.value})" if job.stage else ""
    return f"{job.status.value}{stage}"


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        type=_server_url,
        default=os.environ.get("WAN_SERVER") or DEFAULT_SERVER,
        help=f"server URL; default: WAN_SERVER, else {DEFAULT_SERVER}",
    )


def _server_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a server URL such as {DEFAULT_SERVER}; check --server and WAN_SERVER"
        )
    return text


def _api_key() -> str | None:
    key = os.environ.get("WAN_API_KEY") or None
    if key is not None and not key.isprintable():
        raise UsageError("WAN_API_KEY holds a line break or another unprintable character")
    return key


def _lora(text: str) -> dict[str, str]:
    name, at, strength = text.partition("@")
    return {"name": name} | ({"strength": strength} if at else {})


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _add_field(parser: argparse.ArgumentParser, field: msgspec.structs.FieldInfo) -> None:
    schema = msgspec.json.schema(field.type)
    about = str(schema.get("description") or _optional_description(schema))
    if not field.required and field.default is not None:
        is_of_model = field.name in ModelProfile.__struct_fields__
        about += f" Default: {'see wan models' if is_of_model else field.default}."
    names = [f"--{field.name.replace('_', '-')}"]
    if field.name in _SHORT_NAMES:
        names.insert(0, _SHORT_NAMES[field.name])
    action = argparse.BooleanOptionalAction if _is_bool(schema) else "store"
    parser.add_argument(
        *names,
        dest=field.name,
        action=action,
        default=None,
        required=field.required,
        help=about.replace("%", "%%"),
    )


def _optional_description(schema: dict[str, Any]) -> str:
    """Return the description of an optional field, which is in one of its alternatives."""
    return str(next(choice["description"] for choice in schema["anyOf"] if "description" in choice))


def _is_bool(schema: dict[str, Any]) -> bool:
    return any(choice.get("type") == "boolean" for choice in schema.get("anyOf", [schema]))
