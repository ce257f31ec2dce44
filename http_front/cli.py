"""The `wan` command: submit, status, watch, cancel and download, from a shell; API keys; backup.

Exit codes: 0 done; 1 the job failed; 2 the server or the shell's user asked for something that is
not possible; 3 no answer from the server; 4 the job was cancelled; 130 Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from broker.job import JobSpec, JobState
from http_front import backup_command, key_commands
from http_front.client import ClientError, RefusedError, WanClient
from http_front.errors import FrontError
from http_front.field_check import check
from http_front.keys import KeyFileError
from http_front.progress_bar import ProgressBar
from http_front.schema import JobStatus, JobUpdate

DEFAULT_SERVER = "http://127.0.0.1:8088"

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_UNREACHABLE = 3
EXIT_CANCELLED = 4
EXIT_INTERRUPTED = 130

_SHORT_NAMES = {
    "image_size": "--size",
    "num_frames": "--frames",
    "guidance_scale": "--guidance",
    "infer_steps": "--steps",
    "sample_solver": "--solver",
    "sample_shift": "--shift",
}
_EXIT_OF = {
    JobState.SUCCEED: EXIT_DONE,
    JobState.FAILED: EXIT_FAILED,
    JobState.CANCELLED: EXIT_CANCELLED,
}

_errors = Console(stderr=True, highlight=False)


def main() -> int:
    """Run the command; return its exit code."""
    options = make_parser().parse_args()
    try:
        if options.command == "keys":
            key_commands.run(options)
            return EXIT_DONE
        if options.command == "backup":
            backup_command.run(options)
            return EXIT_DONE
        return asyncio.run(_run(options))
    except FrontError as error:
        _errors.print(f"wan: {error.message}", markup=False)
        return EXIT_UNREACHABLE if error.status >= 500 else EXIT_REFUSED
    except RefusedError as error:
        _errors.print(f"wan: {error}", markup=False)
        return EXIT_UNREACHABLE if error.status >= 500 else EXIT_REFUSED
    except ClientError as error:
        _errors.print(f"wan: {error}", markup=False)
        return EXIT_UNREACHABLE
    except (OSError, KeyFileError) as error:
        _errors.print(f"wan: {error}", markup=False)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; the options of `submit` are the fields of `JobSpec`."""
    parser = argparse.ArgumentParser(
        prog="wan",
        description="Make videos from images on a wan-ranks server.",
        epilog=(__doc__ or "").partition("\n\n")[2],
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    submit = commands.add_parser("submit", help="submit a job")
    submit.add_argument("image", metavar="IMAGE", help="a file, or an http(s) URL")
    for field in msgspec.structs.fields(JobSpec):
        _add_field(submit, field)
    submit.add_argument("--watch", action="store_true", help="show progress until the end")
    submit.add_argument("--output", type=Path, help="with --watch: where the video goes")
    _add_common(submit)
    for name, text in (
        ("status", "tell how a job is"),
        ("watch", "show progress until the end"),
        ("cancel", "end a job"),
        ("download", "fetch the video of a finished job"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("id", metavar="ID", help="what submit printed")
        if name in ("watch", "download"):
            command.add_argument("--output", type=Path, help="where the video goes")
        _add_common(command)
    key_commands.add_parser(commands)
    backup_command.add_parser(commands)
    return parser


def _add_field(parser: argparse.ArgumentParser, field: msgspec.structs.FieldInfo) -> None:
    schema = msgspec.json.schema(field.type)
    about = str(schema.get("description") or _described_option(schema))
    if not field.required and field.default is not None:
        about += f" Default: {field.default}."
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


def _described_option(schema: dict[str, Any]) -> str:
    """Return the description of an optional field, which lies in its first choice."""
    return str(next(choice["description"] for choice in schema["anyOf"] if "description" in choice))


def _is_bool(schema: dict[str, Any]) -> bool:
    return any(choice.get("type") == "boolean" for choice in schema.get("anyOf", [schema]))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        default=os.environ.get("WAN_SERVER", DEFAULT_SERVER),
        help=f"URL of the server; default: WAN_SERVER, else {DEFAULT_SERVER}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")


async def _run(options: argparse.Namespace) -> int:
    # Not an option: every user of the machine sees the command lines of all.
    async with WanClient(options.server, os.environ.get("WAN_API_KEY")) as client:
        match options.command:
            case "submit":
                return await _submit(client, options)
            case "status":
                return _show_status(await client.status(options.id), options)
            case "watch":
                return await _watch(client, options.id, options)
            case "cancel":
                await client.cancel(options.id)
                _print(options, {"requestId": options.id, "status": "Cancelled"}, "cancelled")
                return EXIT_DONE
            case _:  # argparse lets no other through
                return await _download(client, options.id, options)


async def _submit(client: WanClient, options: argparse.Namespace) -> int:
    names = JobSpec.__struct_fields__
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    spec = check(given, JobSpec, lax=True)
    fields: dict[str, object] = {name: getattr(spec, name) for name in given}
    is_url = options.image.startswith(("http://", "https://", "data:"))
    image = options.image if is_url else Path(options.image)
    job_id = await client.submit(image, fields)
    _print(options, {"requestId": job_id}, job_id)
    return await _watch(client, job_id, options) if options.watch else EXIT_DONE


async def _watch(client: WanClient, job_id: str, options: argparse.Namespace) -> int:
    try:
        last = await _follow(client, job_id, options)
    except asyncio.CancelledError:  # Ctrl-C
        _errors.print(
            f"The job goes on. See it again: wan watch {job_id}   End it: wan cancel {job_id}"
        )
        raise
    if last.status is JobState.SUCCEED and options.output is not None:
        return await _download(client, job_id, options)
    if last.status is JobState.SUCCEED:
        _print(options, None, f"done; fetch the video: wan download {job_id}")
    elif last.reason:
        _errors.print(f"wan: the job ended as {last.status.value}: {last.reason}", markup=False)
    return _EXIT_OF[last.status]


async def _follow(client: WanClient, job_id: str, options: argparse.Namespace) -> JobUpdate:
    """Show every change; return the last."""
    last = None
    async with contextlib.aclosing(client.watch(job_id)) as updates:
        with ProgressBar(Console(stderr=True, quiet=options.json)) as bar:
            async for last in updates:
                bar.show(last)
                if options.json:
                    _write(msgspec.json.encode(last).decode())
    assert last is not None, "a watch ends with a terminal change"
    return last


async def _download(client: WanClient, job_id: str, options: argparse.Namespace) -> int:
    place = options.output or Path(f"{job_id}.mp4")
    await client.download(job_id, place)
    _print(options, {"requestId": job_id, "video": str(place)}, str(place))
    return EXIT_DONE


def _show_status(status: JobStatus, options: argparse.Namespace) -> int:
    if options.json:
        _write(msgspec.json.encode(status).decode())
        return EXIT_DONE
    fields = msgspec.to_builtins(status)
    fields["results"] = status.results and status.results.video_url
    for name, value in fields.items():
        if value is not None:
            _write(f"{name:15} {value}")
    return EXIT_DONE


def _print(options: argparse.Namespace, fields: dict[str, str] | None, text: str) -> None:
    if not options.json:
        _write(text)
    elif fields is not None:
        _write(msgspec.json.encode(fields).decode())


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
