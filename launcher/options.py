"""The operator's options: one definition for flags, environment, file and documentation."""

import argparse
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from broker.log import LogFormat
from broker.store import is_object_place
from http_front.config import Downloads

Role = Literal["server", "group", "front"]
"""A server is broker, front and groups; the others join one that runs elsewhere."""

_ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]-]+")
_CENTURY_S = 3_155_760_000.0  # infinity cannot be told to the processes: JSON has none
DEFAULT_MODEL = "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"


class OptionsError(Exception):
    """Raised when an option is unknown or its value cannot be used."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator can choose. Precedence: default < file < environment < flag."""

    nproc: Annotated[int, Meta(ge=1, le=64, description="Ranks in a group, one a device.")] = 8
    groups: Annotated[
        int, Meta(ge=0, le=1024, description="Groups to start; each runs a job at a time.")
    ] = 1
    engine: Annotated[
        Literal["local", "ray"],
        Meta(
            description="Who starts the groups: this machine, or Ray, each on a node that has "
            "the devices."
        ),
    ] = "local"
    ray_address: Annotated[
        str,
        Meta(
            min_length=1,
            description="The Ray cluster, HOST:PORT; auto: what RAY_ADDRESS says, or else the one "
            "that this machine belongs to.",
        ),
    ] = "auto"
    device: Annotated[
        Literal["auto", "npu", "cuda", "cpu"], Meta(description="What the ranks compute on.")
    ] = "auto"
    model_path: Annotated[str, Meta(description="Model folder in the layout of diffusers.")] = (
        DEFAULT_MODEL
    )
    demo: Annotated[
        bool, Meta(description="Use a miniature model, made on the spot; shows no real video.")
    ] = False
    host: Annotated[str, Meta(min_length=1, description="Address that the front listens on.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="Its port; 0 takes any free one.")] = 8088
    state_dir: Annotated[
        str, Meta(min_length=1, description="Folder of everything that is kept on disk.")
    ] = "state"
    store: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="Where images, videos and saved states are: a folder on a disk that "
                "all machines share, or s3://BUCKET/PREFIX; left out, the state directory.",
            ),
        ]
        | None
    ) = None
    store_downloads: Annotated[
        Downloads,
        Meta(
            description="Videos in s3:// pass through the front (relay), or clients are sent to "
            "the bucket by a link for ten minutes (redirect)."
        ),
    ] = "relay"
    listen: (
        Annotated[
            str,
            Meta(
                description="Where groups and fronts of other machines join this server: "
                "tcp://HOST:PORT; the port and the next three are used."
            ),
        ]
        | None
    ) = None
    join: (
        Annotated[
            str,
            Meta(description="The server that groups or a front belong to: what it listens on."),
        ]
        | None
    ) = None
    name: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
                description="What groups that join are called, before -g0; left out, this "
                "machine's name and a mark of the state directory.",
            ),
        ]
        | None
    ) = None
    curve_keys: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="Folder of CURVE keys for --listen (broker/) or --join (peer/), "
                "made by wan keys curve; only loopback does without.",
            ),
        ]
        | None
    ) = None
    cfg_size: (
        Annotated[int, Meta(ge=1, le=2, description="Default of a job's `cfg_size`.")] | None
    ) = None
    ulysses_size: (
        Annotated[int, Meta(ge=1, le=64, description="Default of a job's `ulysses_size`.")] | None
    ) = None
    dit_fsdp: Annotated[bool, Meta(description="Default of a job's `dit_fsdp`.")] = False
    t5_fsdp: Annotated[bool, Meta(description="Default of a job's `t5_fsdp`.")] = False
    vae_parallel: Annotated[bool, Meta(description="Default of a job's `vae_parallel`.")] = False
    checkpoint_steps: Annotated[
        int, Meta(ge=1, description="Denoising steps between two saved states of a job.")
    ] = 5
    max_queue: Annotated[int, Meta(ge=1, description="Jobs that may wait.")] = 100
    priority_step: Annotated[
        float,
        Meta(gt=0, le=_CENTURY_S, description="Seconds of waiting a level of priority is worth."),
    ] = 3600.0
    job_ttl: Annotated[
        float,
        Meta(
            ge=0,
            le=_CENTURY_S,
            description="Seconds that a job and its files are kept after its end.",
        ),
    ] = 3600.0
    api_keys: (
        Annotated[
            str,
            Meta(min_length=1, description="File of the API keys that clients must show one of."),
        ]
        | None
    ) = None
    insecure: Annotated[
        bool, Meta(description="Serve other machines without API keys; whoever comes may use it.")
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...], Meta(description="Names, besides its own, that clients may call it by.")
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], Meta(description="Other sites whose pages may use it: https://…")
    ] = ()
    image_hosts: Annotated[
        tuple[str, ...],
        Meta(description="The hosts images may come from, .example.com for all below; none: any."),
    ] = ()
    allow_private_images: Annotated[
        bool, Meta(description="Fetch images from addresses that are not public, too.")
    ] = False
    realtime_front: Annotated[
        bool,
        Meta(
            description="Let the front go before all else on this machine, so that it answers at "
            "once where processors are busy; for root, or with RLIMIT_RTPRIO."
        ),
    ] = False
    drain_timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=_CENTURY_S,
            description="Seconds that running jobs may take to end at a stop.",
        ),
    ] = 600.0
    startup_timeout: Annotated[
        float,
        Meta(gt=0, le=_CENTURY_S, description="Seconds that the ranks may take to load."),
    ] = 1800.0
    step_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=_CENTURY_S,
            description="Seconds that a denoising step may take before the ranks count as hung; "
            "five times as long until a step is known, ten usual steps always, and on CPUs ten "
            "times these seconds.",
        ),
    ] = 60.0
    log_format: Annotated[LogFormat, Meta(description="Log lines for people or for programs.")] = (
        "text"
    )

    def __post_init__(self) -> None:
        if self.demo and self.model_path != DEFAULT_MODEL:
            raise ValueError("demo and model_path exclude each other: --demo makes its own model")
        if self.groups == 0 and self.listen is None:
            raise ValueError("groups is 0, and without listen none can join from elsewhere")
        self._check_engine()
        cfg_size, ulysses_size = self.cfg_size or 1, self.ulysses_size or 1
        if self.nproc % (cfg_size * ulysses_size):
            raise ValueError(
                f"cfg_size {cfg_size} times ulysses_size {ulysses_size} does not divide "
                f"nproc {self.nproc}"
            )
        if "://" in (self.store or "") and not is_object_place(self.store or ""):
            raise ValueError(f"store is {self.store}; it must be a folder or s3://BUCKET/PREFIX")
        if self.store_downloads == "redirect" and not is_object_place(self.store or ""):
            raise ValueError("store_downloads is redirect, which needs a store that is s3://…")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors_origins has {origin!r}; an origin is a scheme and a host, "
                    "as https://example.com, without a path"
                )

    def _check_engine(self) -> None:
        if self.engine == "ray" and self.listen is None:
            raise ValueError("engine is ray, and without listen its groups cannot join this server")
        if self.ray_address.startswith("ray://"):
            raise ValueError(
                f"ray_address is {self.ray_address!r}: give HOST:PORT of the cluster; "
                "this machine must be a node of it"
            )


class Command(msgspec.Struct, frozen=True):
    """What the command line asks for."""

    role: Role
    options: Options
    action: Literal["run", "print-config", "check"]

    def __post_init__(self) -> None:
        if self.role == "server" and self.options.join is not None:
            raise OptionsError("--join is for `launch.py group` and `launch.py front`")
        if self.role != "server" and self.options.join is None:
            raise OptionsError(f"launch.py {self.role} needs --join tcp://HOST:PORT")
        if self.role != "server" and self.options.listen is not None:
            raise OptionsError(f"--listen is for a server; launch.py {self.role} joins one")

    @property
    def has_front(self) -> bool:
        """Whether an HTTP front runs here."""
        return self.role != "group"

    @property
    def has_groups(self) -> bool:
        """Whether this machine runs ranks of its own."""
        return self.role != "front" and self.options.groups > 0 and not self.has_fleet

    @property
    def has_fleet(self) -> bool:
        """Whether Ray runs the groups, somewhere in its cluster."""
        return self.options.engine == "ray"


def parse_command(
    argv: list[str], environ: Mapping[str, str], program: str = "launch.py"
) -> Command:
    """Return what is asked for.

    Args:
        argv: The command line without the program's name.
        environ: Where variables `WAN_…` are looked up.
        program: What the help calls it.

    Raises:
        OptionsError: With the option, its value and what is allowed.
    """
    flags = vars(_parser(program).parse_args(argv))
    config_file, action, role = flags.pop("config"), flags.pop("action"), flags.pop("role")
    merged: dict[str, Any] = {}
    if config_file is not None:
        merged |= _from_file(Path(config_file))
    merged |= _from_environment(environ)
    merged |= {name: value for name, value in flags.items() if value is not None}
    try:
        # Not strict: environment and flags are text.
        options = msgspec.convert(_split_lists(merged), Options, strict=False)
    except msgspec.ValidationError as error:
        raise OptionsError(_explain(error, merged)) from error
    return Command(role=role, options=options, action=action)


def to_toml(options: Options) -> str:
    """Return the options as the content of a file for `--config`."""
    lines = []
    for name, value in msgspec.structs.asdict(options).items():
        if value is not None:
            lines.append(f"{name} = {msgspec.json.encode(value).decode()}")
    return "\n".join(lines)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Start the video server: broker, HTTP front and ranks. Or start groups of "
        "ranks, or an HTTP front, of a server that runs elsewhere (--join).",
        epilog="Each option is also a key of a TOML file (--config) and a variable WAN_OPTION.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "role",
        nargs="?",
        choices=get_args(Role),
        default="server",
        help="what to start here (default: server)",
    )
    for field in msgspec.structs.fields(Options):
        _add_flag(parser, field)
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these options")
    parser.add_argument(
        "--print-config",
        action="store_const",
        const="print-config",
        dest="action",
        default="run",
        help="print the options in force as TOML, and end",
    )
    parser.add_argument(
        "--check",
        action="store_const",
        const="check",
        dest="action",
        help="say what is missing for a start, and end",
    )
    return parser


def _add_flag(parser: argparse.ArgumentParser, field: msgspec.structs.FieldInfo) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    shown = "" if field.default in (None, ()) else f" (default: {field.default})"
    text = f"{_description(field.type)}{shown}"
    if isinstance(field.default, bool):
        parser.add_argument(
            flag, dest=field.name, help=text, action=argparse.BooleanOptionalAction, default=None
        )
    else:
        metavar = "A,B" if isinstance(field.default, tuple) else "VALUE"
        parser.add_argument(flag, dest=field.name, help=text, metavar=metavar)


def _description(annotation: Any) -> str:
    """Return the description in a field's type, also where the type is an alternative to None."""
    for part in (annotation, *get_args(annotation)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    raise TypeError(f"an option of type {annotation} has no description")


def _from_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise OptionsError(f"--config {path}: {os.strerror(error.errno or 0)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionsError(f"--config {path}: {error}") from error
    for name in content:
        if name not in Options.__struct_fields__:
            raise OptionsError(f"--config {path}: {name} is no option")
    return content


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    names = {f"WAN_{field.name.upper()}": field.name for field in msgspec.structs.fields(Options)}
    return {name: environ[key] for key, name in names.items() if key in environ}


def _split_lists(merged: dict[str, Any]) -> dict[str, Any]:
    """Return the values with `a,b` turned into a list where the option is one."""
    lists = {f.name for f in msgspec.structs.fields(Options) if isinstance(f.default, tuple)}
    return {
        name: _parts(value) if name in lists and isinstance(value, str) else value
        for name, value in merged.items()
    }


def _parts(text: str) -> list[str]:
    """Return what `a, b` lists; nothing where a variable is set, yet empty."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _choices(name: str) -> tuple[str, ...]:
    """Return the words that an option is one of; none where it is no such option."""
    annotation = next(f.type for f in msgspec.structs.fields(Options) if f.name == name)
    literals = [part for part in get_args(annotation) if get_origin(part) is Literal]
    return get_args(literals[0]) if literals else ()


def _explain(error: msgspec.ValidationError, merged: dict[str, Any]) -> str:
    """Return a message that names the option and the value beside what is allowed."""
    text, _, path = str(error).partition(" - at `$.")
    name = path.rstrip("`")
    if name not in merged:
        return text
    if choices := _choices(name):
        text = f"it must be one of {', '.join(choices)}"
    return f"--{name.replace('_', '-')} is {merged[name]!r}: {text[:1].lower()}{text[1:]}"
