"""The operator's options: one definition for flags, environment variables, file and help."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.process.log import LogFormat
from broker.store.store import is_object_place
from broker.wire.job import MAX_PROMPT_CHARS, MODEL_NAME_PATTERN
from broker.wire.model_profile import Attention, EightBit
from http_front.config import AccessLog, Downloads
from launcher.lora_options import check_lora_options
from launcher.served_models import (
    DemoModel,
    ServedModel,
    check_distilled,
    check_names,
    demo_models,
    models_in_folders,
    models_on_groups,
    with_distilled,
)
from ranks.config import VaeDtype
from ranks.offload import PATTERN as OFFLOAD_PATTERN
from ranks.offload import parse_offload

Role = Literal["server", "group", "front"]
"""A server runs broker, front and groups; `group` and `front` join a server elsewhere."""

_ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]-]+")
_CENTURY_S = 3_155_760_000.0  # a limit, because JSON has no infinity to pass to the processes
IS_DURATION = "is_duration"
"""Key in the `extra` of a field that takes a duration."""
_DURATION = {IS_DURATION: True}
DEFAULT_MODEL = "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"


class OptionsError(Exception):
    """Raised when an option is unknown or its value cannot be used."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options. A flag overrides the environment, which overrides the file and the default."""

    nproc: Annotated[int, Meta(ge=1, le=64, description="Ranks in a group, one per device.")] = 8
    groups: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Groups to start for each model of --model-path or --demo; each group runs "
            "one job at a time.",
        ),
    ] = 1
    engine: Annotated[
        Literal["local", "ray"],
        Meta(
            description="What starts the groups: this machine, or Ray, which places each on a "
            "node that has the devices."
        ),
    ] = "local"
    ray_address: Annotated[
        str,
        Meta(
            min_length=1,
            description="The Ray cluster, HOST:PORT; auto takes RAY_ADDRESS, or else the cluster "
            "that this machine belongs to.",
        ),
    ] = "auto"
    device: Annotated[
        Literal["auto", "npu", "cuda", "cpu"], Meta(description="Device that the ranks compute on.")
    ] = "auto"
    model_path: Annotated[
        tuple[str, ...],
        Meta(
            description="Model folder, in the layout of diffusers or the original one; several, "
            "or the option repeated, serve several models."
        ),
    ] = (DEFAULT_MODEL,)
    model: Annotated[
        tuple[str, ...],
        Meta(
            description="Model by name and with its number of groups: NAME=PATH@GROUPS; instead of "
            "--model-path and --groups, may be repeated."
        ),
    ] = ()
    transformer: Annotated[
        tuple[str, ...],
        Meta(
            max_length=2,
            description="Safetensors file with original names that takes the place of the "
            "folder's transformer, which may be missing; HIGH,LOW for the two of Wan2.2 A14B.",
        ),
    ] = ()
    distilled: Annotated[
        tuple[str, ...],
        Meta(
            description="Names of the models whose weights are step-distilled: they make a video "
            "in 4 steps, without guidance."
        ),
    ] = ()
    quantize: (
        Annotated[
            EightBit,
            Meta(
                description="Multiply in 8 bits in the transformers' blocks: their weights are "
                "rounded as they are loaded, and tokens as they are multiplied."
            ),
        ]
        | None
    ) = None
    quantize_skip: Annotated[
        int,
        Meta(
            ge=0,
            le=32,
            description="Blocks at either end of a transformer that --quantize leaves as they are.",
        ),
    ] = 0
    attention: Annotated[
        Attention,
        Meta(
            description="What computes attention: exact kernels, the best that are installed; or "
            "sage, for SageAttention, which is lossy and must be installed."
        ),
    ] = "exact"
    vae_dtype: (
        Annotated[
            VaeDtype,
            Meta(
                description="What the VAE computes in; by default float32, and bfloat16 on an NPU."
            ),
        ]
        | None
    ) = None
    lora: Annotated[
        tuple[str, ...],
        Meta(
            description="LoRA to merge into the model: NAME=FILE@STRENGTH, or NAME=HIGH,LOW for a "
            "model with two transformers; without @STRENGTH, 1; may be repeated."
        ),
    ] = ()
    loras: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="Folder of LoRAs that jobs may name: NAME.safetensors, or "
                "NAME.high.safetensors and NAME.low.safetensors; in a folder of a model's name, "
                "that model's.",
            ),
        ]
        | None
    ) = None
    default_model: (
        Annotated[
            str,
            Meta(
                pattern=MODEL_NAME_PATTERN,
                description="Name of the model of jobs that name none; by default the first one.",
            ),
        ]
        | None
    ) = None
    demo: (
        Annotated[
            bool,
            Meta(
                description="Build and use a miniature model, which makes no real video; one of "
                "each family that is named, as --demo=wan2.1-i2v,wan2.2-ti2v-5b:original, where "
                ":original is the layout."
            ),
        ]
        | tuple[DemoModel, ...]
    ) = False
    host: Annotated[str, Meta(min_length=1, description="Address that the front listens on.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="The front's port; 0: any free one.")] = (
        8088
    )
    state_dir: Annotated[
        str, Meta(min_length=1, description="Folder of everything that is kept on disk.")
    ] = "state"
    store: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="Where images, videos and checkpoints are kept: a folder that all "
                "machines share, or s3://BUCKET/PREFIX; by default, the state directory.",
            ),
        ]
        | None
    ) = None
    store_downloads: Annotated[
        Downloads,
        Meta(
            description="How clients get videos from s3://: through the front (relay), or by a "
            "link to the bucket that is valid for ten minutes (redirect)."
        ),
    ] = "relay"
    listen: (
        Annotated[
            str,
            Meta(
                description="Address at which other machines join this server: tcp://HOST:PORT; "
                "uses that port and the next three."
            ),
        ]
        | None
    ) = None
    join: (
        Annotated[
            str,
            Meta(description="Server that these groups or this front join: its --listen address."),
        ]
        | None
    ) = None
    name: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
                description="Prefix of the names of groups that join, before -g0; by default, this "
                "machine's name and a hash of the state directory.",
            ),
        ]
        | None
    ) = None
    curve_keys: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="Folder of CURVE keys for --listen (broker/) or --join (peer/), made "
                "by wan keys curve; required except on loopback.",
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
    vae_parallel: Annotated[
        bool | None,
        Meta(
            description="Default of a job's `vae_parallel`; if left out, on where a group has "
            "several accelerators."
        ),
    ] = None
    offload: (
        Annotated[
            str,
            Meta(
                pattern=OFFLOAD_PATTERN,
                description="What is in host memory between its uses: none; encoders; and for one "
                "rank models (also the transformer), blocks or blocks:N (also its blocks, of which "
                "N stay). By default, what the devices' memory asks for.",
            ),
        ]
        | None
    ) = None
    checkpoint_steps: Annotated[
        int, Meta(ge=1, description="Denoising steps between two checkpoints of a job.")
    ] = 5
    max_queue: Annotated[int, Meta(ge=1, description="Jobs that may wait in the queue.")] = 100
    min_prompt_chars: Annotated[
        int,
        Meta(ge=1, le=MAX_PROMPT_CHARS, description="Shortest prompt of `/video/submit`."),
    ] = 10
    max_prompt_chars: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_PROMPT_CHARS,
            description="Longest prompt of `/video/submit`; `/v1/videos` takes 1 to 5000 "
            "characters. Models read 512 tokens, some 2,000 letters.",
        ),
    ] = 500
    priority_step: Annotated[
        float,
        Meta(
            gt=0,
            le=_CENTURY_S,
            description="How long a job waits to gain one level of priority.",
            extra=_DURATION,
        ),
    ] = 3600.0
    keep_limit: Annotated[
        int,
        Meta(ge=0, description="Videos that each user may keep whatever their age."),
    ] = 50
    min_free_space: Annotated[
        float,
        Meta(
            ge=0,
            description="GiB of free disk space below which the oldest videos that are not kept "
            "are removed before their time; 0: never.",
        ),
    ] = 2.0
    job_ttl: Annotated[
        float,
        Meta(
            ge=0,
            le=_CENTURY_S,
            description="How long a job and its files stay after it ends, unless its video is "
            "kept.",
            extra=_DURATION,
        ),
    ] = 7 * 86_400.0
    api_keys: (
        Annotated[
            str,
            Meta(min_length=1, description="File of API keys; clients must send one of them."),
        ]
        | None
    ) = None
    insecure: Annotated[
        bool, Meta(description="Serve other machines without API keys, to any client.")
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...], Meta(description="Further host names that clients may call it by.")
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], Meta(description="Other sites whose pages may call this server: https://…")
    ] = ()
    image_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Hosts that images may come from; .host for all below it; by default any."
        ),
    ] = ()
    allow_private_images: Annotated[
        bool, Meta(description="Also fetch images from addresses that are not public.")
    ] = False
    allow_private_callbacks: Annotated[
        bool, Meta(description="Also send callbacks to addresses that are not public.")
    ] = False
    realtime_front: Annotated[
        bool,
        Meta(
            description="Give the front real-time priority, so that it answers at once on busy "
            "processors; requires root or RLIMIT_RTPRIO."
        ),
    ] = False
    drain_timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=_CENTURY_S,
            description="How long running jobs get to finish when the server stops.",
            extra=_DURATION,
        ),
    ] = 600.0
    startup_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=_CENTURY_S,
            description="How long the ranks may take to load.",
            extra=_DURATION,
        ),
    ] = 1800.0
    step_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=_CENTURY_S,
            extra=_DURATION,
            description="How long a denoising step may take before the ranks count as hung. "
            "The limit is never below ten usual steps; it is five times as long until a step has "
            "been measured, and ten times as long on CPUs.",
        ),
    ] = 60.0
    log_format: Annotated[LogFormat, Meta(description="Log lines for people or for programs.")] = (
        "text"
    )
    access_log: Annotated[
        AccessLog,
        Meta(description="Requests that have a log line: none, those refused or failed, or all."),
    ] = "errors"

    def __post_init__(self) -> None:
        self._check_models()
        if self.groups == 0 and self.listen is None:
            raise ValueError("groups is 0, so listen is needed: without it no group can join")
        self._check_engine()
        self._check_offload()
        cfg_size, ulysses_size = self.cfg_size or 1, self.ulysses_size or 1
        if self.nproc % (cfg_size * ulysses_size):
            raise ValueError(
                f"cfg_size {cfg_size} times ulysses_size {ulysses_size} does not divide "
                f"nproc {self.nproc}"
            )
        if "://" in (self.store or "") and not is_object_place(self.store or ""):
            raise ValueError(f"store is {self.store}; it must be a folder or s3://BUCKET/PREFIX")
        if self.store_downloads == "redirect" and not is_object_place(self.store or ""):
            raise ValueError(
                "store_downloads is redirect, which needs a store at s3://BUCKET/PREFIX"
            )
        if self.min_prompt_chars > self.max_prompt_chars:
            raise ValueError(
                f"min_prompt_chars is {self.min_prompt_chars}; it must not be more than "
                f"max_prompt_chars, which is {self.max_prompt_chars}"
            )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors_origins has {origin!r}; an origin is a scheme and a host without a "
                    "path, for example https://example.com"
                )

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """The models of this machine's groups, or of those that Ray places."""
        return with_distilled(self._named_models, self.distilled)

    @property
    def num_groups(self) -> int:
        return sum(model.num_groups for model in self.models)

    @property
    def _named_models(self) -> tuple[ServedModel, ...]:
        if self.demo:
            return demo_models(self.demo, self.groups)
        if self.model:
            return models_on_groups(self.model)
        return models_in_folders(self.model_path, self.groups)

    def _check_models(self) -> None:
        has_paths = self.model_path not in ((), (DEFAULT_MODEL,))
        if self.demo and has_paths:
            raise ValueError("demo and model_path exclude each other: --demo makes its own model")
        if self.demo and self.model:
            raise ValueError("demo and model exclude each other: --demo makes its own model")
        if self.demo and self.transformer:
            raise ValueError("demo and transformer exclude each other: --demo makes its own model")
        if self.transformer and len(self.models) != 1:
            raise ValueError(
                f"transformer is the file of one model, but the server has {len(self.models)}"
            )
        if self.quantize_skip and self.quantize is None:
            raise ValueError("quantize_skip says what quantize leaves out; give quantize, too")
        if self.lora and len(self.models) != 1:
            raise ValueError(
                f"lora changes one model, but the server has {len(self.models)}; offer it to jobs "
                "with --loras"
            )
        check_lora_options(self.lora)
        if self.model and has_paths:
            raise ValueError("model and model_path exclude each other: name all with --model")
        if not (self.demo or self.model or self.model_path):
            raise ValueError("model_path is empty; name the folder of a model")
        if self.model and self.groups not in (1, self.num_groups):
            raise ValueError(
                f"groups is {self.groups}, but --model asks for {self.num_groups}; leave --groups "
                "out"
            )
        # Models of other machines may be the default, too.
        is_closed = self.listen is None and self.join is None
        check_distilled(self.models, self.distilled)
        check_names(self.models, self.default_model if is_closed else None)

    def _check_offload(self) -> None:
        if self.offload is None or self.nproc == 1:
            return
        offload = parse_offload(self.offload)
        if offload.models:
            raise ValueError(
                f"offload is {self.offload}, which is for one rank, and nproc is {self.nproc}: "
                "several ranks take encoders, and share the transformer instead: --dit-fsdp"
            )
        if offload.encoders and self.t5_fsdp:
            raise ValueError(
                "offload is encoders, so each rank has the text encoder whole while it computes, "
                "and t5_fsdp would share it: choose one of them"
            )

    def _check_engine(self) -> None:
        if self.engine == "ray" and self.listen is None:
            raise ValueError("engine is ray, so listen is needed: without it no group can join")
        if self.ray_address.startswith("ray://"):
            raise ValueError(
                f"ray_address is {self.ray_address!r}; it must be HOST:PORT of a cluster that this "
                "machine is a node of"
            )
