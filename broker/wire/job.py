"""What a job is: the parameters of a video, the states of a job, the stages of an attempt."""

import math
import re
from enum import Enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.wire.job_memory import Demand, GroupMemory, needed_bytes

FRAMES_PER_SECOND = 16
MAX_PIXELS = 921_600
MIN_SIDE_PX = 64
SIDE_MULTIPLE_PX = 16
_LINEAR_TOKENS = 29_000

JOB_ID_PATTERN = "[0-9a-f]{32}"
IMAGE_PATTERN = r"[0-9a-f]{64}\.ppm"
_SIZE = re.compile(r"([0-9]{1,5})[*x]([0-9]{1,5})")
_FORBIDDEN_TEXT = re.compile(r"[\x00\ud800-\udfff]")


class SpecError(ValueError):
    """Raised when a field of a job has a value that cannot be honoured.

    Args:
        field: Name of the field in the API.
        message: What was found and what is allowed.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class JobState(Enum):
    """The state of a job; the values are those that clients see."""

    IN_QUEUE = "InQueue"  # in the journal, waiting for a group
    IN_PROGRESS = "InProgress"  # leased to a group
    SUCCEED = "Succeed"  # the whole video is stored
    FAILED = "Failed"  # ended without a video, see the reason
    CANCELLED = "Cancelled"  # ended by its client

    @property
    def is_terminal(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.IN_QUEUE: frozenset({JobState.IN_PROGRESS, JobState.CANCELLED, JobState.FAILED}),
    JobState.IN_PROGRESS: frozenset(
        {JobState.IN_QUEUE, JobState.SUCCEED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.SUCCEED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class Stage(Enum):
    """What a rank is doing; all stages but the first two belong to an attempt."""

    LOAD = "load"
    IDLE = "idle"
    ENCODE = "encode"  # prompt, image and first frame
    DENOISE = "denoise"
    DECODE = "decode"
    SAVE = "save"


Priority = Annotated[
    int,
    Meta(
        ge=-10,
        le=10,
        description="Urgency: higher ones come first, and preempt running jobs.",
    ),
]
Solver = Literal["unipc", "dpm++", "dpmpp"]


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of one video: the only definition of their names, defaults and ranges.

    The HTTP checks, the OpenAPI document and the broker's checks derive from it.

    Raises:
        SpecError: If fields contradict each other (msgspec wraps it in a `ValidationError`).
    """

    prompt: Annotated[
        str,
        Meta(
            min_length=10,
            max_length=500,
            description="What the video shows.",
            examples=["A small sailing boat drifts across a calm bay"],
        ),
    ]
    image_size: Annotated[
        str,
        Meta(
            pattern=r"^[0-9]{1,5}[*x][0-9]{1,5}$",
            description="Width and height in pixels, `W*H` or `WxH`: each a multiple of 16 and at "
            "least 64, at most 921600 pixels together.",
        ),
    ] = "1280*720"
    num_frames: Annotated[
        int, Meta(ge=24, le=121, description="Length of the video; 16 frames are one second.")
    ] = 81
    guidance_scale: Annotated[
        float,
        Meta(
            ge=1.0,
            le=20.0,
            description="Guidance scale (CFG): how closely the video follows the prompt; 1 is off.",
        ),
    ] = 3.0
    infer_steps: Annotated[int, Meta(ge=20, le=100, description="Number of denoising steps.")] = 30
    seed: (
        Annotated[
            int,
            Meta(ge=0, le=2_147_483_647, description="Seed of the noise; random if left out."),
        ]
        | None
    ) = None
    negative_prompt: (
        Annotated[
            str,
            Meta(max_length=500, description="Negative prompt: what the video should not show."),
        ]
        | None
    ) = None

    vae_parallel: Annotated[
        bool | None,
        Meta(description="Split the VAE over the ranks; the group's default if left out."),
    ] = None
    ulysses_size: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=64,
                description="Ranks that share a sequence; the group's default if left out.",
            ),
        ]
        | None
    ) = None
    cfg_size: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=2,
                description="2 computes both guidance branches at once, on separate ranks.",
            ),
        ]
        | None
    ) = None
    dit_fsdp: Annotated[
        bool | None, Meta(description="Keep the transformer's weights sharded between blocks.")
    ] = None
    t5_fsdp: Annotated[
        bool | None, Meta(description="Keep the text encoder's weights sharded between blocks.")
    ] = None

    use_attentioncache: Annotated[
        bool, Meta(description="Reuse self-attention outputs of earlier steps (lossy, faster).")
    ] = False
    start_step: Annotated[
        int, Meta(ge=0, le=10_000, description="First step whose attention is kept.")
    ] = 12
    attentioncache_interval: Annotated[
        int, Meta(ge=1, le=10_000, description="Attention is computed at every n-th step only.")
    ] = 4
    end_step: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Last step that reuses attention; may exceed the number of steps.",
        ),
    ] = 37
    sample_solver: Annotated[
        Solver, Meta(description="Sampler; `dpmpp` is an alias of `dpm++`.")
    ] = "unipc"
    sample_shift: Annotated[
        float, Meta(gt=0.0, le=100.0, description="Shift of the noise schedule.")
    ] = 5.0

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise SpecError("prompt", "prompt holds only blanks; describe what the video shows")
        for field, text in (("prompt", self.prompt), ("negative_prompt", self.negative_prompt)):
            if text is not None and _FORBIDDEN_TEXT.search(text):
                raise SpecError(field, f"{field} holds a character that is not text (NUL)")
        check_size(self.width_px, self.height_px, self.image_size)
        if self.use_attentioncache and self.end_step < self.start_step:
            raise SpecError(
                "end_step",
                f"end_step is {self.end_step}; it must not be less than start_step, "
                f"which is {self.start_step}",
            )

    @property
    def width_px(self) -> int:
        return parse_size(self.image_size)[0]

    @property
    def height_px(self) -> int:
        return parse_size(self.image_size)[1]

    @property
    def num_model_frames(self) -> int:
        """Frames that the model makes: the next number of the form 4n + 1; the clip is cut."""
        return (self.num_frames + 2) // 4 * 4 + 1

    @property
    def solver(self) -> Literal["unipc", "dpm++"]:
        return "unipc" if self.sample_solver == "unipc" else "dpm++"


def parse_size(image_size: str) -> tuple[int, int]:
    """Return width and height in pixels of `W*H` or `WxH`.

    Raises:
        SpecError: If the text has another form.
    """
    match = _SIZE.fullmatch(image_size)
    if match is None:
        raise SpecError(
            "image_size", f"image_size is {image_size!r}; write width and height as 1280*720"
        )
    return int(match[1]), int(match[2])


def check_size(width_px: int, height_px: int, shown: str) -> None:
    """Check a size against what the model can make.

    Raises:
        SpecError: With the size as the client wrote it (`shown`), and the rule.
    """
    sides = (width_px, height_px)
    if any(side % SIDE_MULTIPLE_PX or side < MIN_SIDE_PX for side in sides):
        raise SpecError(
            "image_size",
            f"image_size is {shown}; each side must be a multiple of {SIDE_MULTIPLE_PX} "
            f"and at least {MIN_SIDE_PX}",
        )
    if width_px * height_px > MAX_PIXELS:
        raise SpecError(
            "image_size",
            f"image_size is {shown}, {width_px * height_px} pixels; at most {MAX_PIXELS} are "
            "possible (1280*720)",
        )


class GroupShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Determines the layouts that a group can run, and its default layout."""

    world_size: int
    num_heads: int
    cfg_size: int | None = None
    """Default of `JobSpec.cfg_size`; None leaves the choice to `choose_layout`."""
    ulysses_size: int | None = None
    """Default of `JobSpec.ulysses_size`; None leaves the choice to `choose_layout`."""
    memory: GroupMemory | None = None
    """The memory that jobs take; None accepts every size."""


def choose_layout(spec: JobSpec, shape: GroupShape) -> tuple[int, int]:
    """Return `(cfg_size, ulysses_size)` for a job on a group.

    Sizes that the job names are kept or refused, never changed. Others are the group's defaults;
    without any, CFG is 2 where guidance is on, and as many ranks as possible share the sequence.

    Raises:
        SpecError: If the group cannot run the layout; the message shows the numbers.
    """
    cfg_size, ulysses_size = _layout_sizes(spec, shape)
    if shape.world_size % (cfg_size * ulysses_size):
        field = "ulysses_size" if spec.ulysses_size is not None else "cfg_size"
        raise SpecError(
            field,
            f"cfg_size {cfg_size} times ulysses_size {ulysses_size} is {cfg_size * ulysses_size}; "
            f"it must divide the group's {shape.world_size} ranks",
        )
    if shape.num_heads % ulysses_size:
        raise SpecError(
            "ulysses_size",
            f"ulysses_size is {ulysses_size}; it must divide the model's {shape.num_heads} "
            "attention heads",
        )
    if shape.memory is not None:
        _check_memory(spec, shape.memory, shape.world_size, cfg_size, ulysses_size)
    return cfg_size, ulysses_size


def can_run(spec: JobSpec, shape: GroupShape) -> bool:
    try:
        choose_layout(spec, shape)
    except SpecError:
        return False
    return True


def job_bytes(spec: JobSpec, memory: GroupMemory, cfg_size: int, ulysses_size: int) -> int:
    return needed_bytes(memory, _demand(spec, memory, cfg_size, ulysses_size))


def step_work(spec: JobSpec, shape: GroupShape) -> float:
    """Return the work of a denoising step for each rank, in an arbitrary unit.

    Each token of a rank attends to every token of the clip, and passes the linear layers, which in
    the 14B model cost as much as attention over some 29,000 tokens.
    """
    cfg_size, ulysses_size = _layout_sizes(spec, shape)
    num_tokens = _num_tokens(spec)
    num_branches = 1 if cfg_size == 2 or spec.guidance_scale <= 1.0 else 2
    return num_branches * num_tokens / ulysses_size * (num_tokens + _LINEAR_TOKENS)


def _layout_sizes(spec: JobSpec, shape: GroupShape) -> tuple[int, int]:
    cfg_size = spec.cfg_size
    if cfg_size is None:
        cfg_size = _default_cfg_size(spec, shape)
    ulysses_size = spec.ulysses_size
    if ulysses_size is None:
        ulysses_size = _default_ulysses_size(cfg_size, shape)
    return cfg_size, ulysses_size


def _num_tokens(spec: JobSpec) -> int:
    num_latent_frames = spec.num_model_frames // 4 + 1
    # A token is 2 x 2 latents, of 8 x 8 pixels each.
    return num_latent_frames * (spec.width_px // 16) * (spec.height_px // 16)


def _default_cfg_size(spec: JobSpec, shape: GroupShape) -> int:
    if spec.guidance_scale <= 1.0:
        return 1
    wanted = shape.cfg_size or 2
    # A job may name ulysses_size alone (8 on 8 ranks): CFG then takes the remaining ranks.
    return wanted if shape.world_size % (wanted * (spec.ulysses_size or 1)) == 0 else 1


def _default_ulysses_size(cfg_size: int, shape: GroupShape) -> int:
    ranks = shape.world_size // cfg_size
    if shape.ulysses_size is not None and ranks % shape.ulysses_size == 0:
        return shape.ulysses_size
    return max(n for n in range(1, ranks + 1) if ranks % n == 0 and shape.num_heads % n == 0)


def _check_memory(
    spec: JobSpec, memory: GroupMemory, world_size: int, cfg_size: int, ulysses_size: int
) -> None:
    needed = job_bytes(spec, memory, cfg_size, ulysses_size)
    if needed > memory.capacity_bytes:
        kept = ", the attention cache" if spec.use_attentioncache else ""
        # Rounded apart, so that the two numbers are never the same.
        needed_gib = math.ceil(needed / 2**30 * 10) / 10
        usable_gib = math.floor(memory.capacity_bytes / 2**30 * 10) / 10
        split = ", or set dit_fsdp, t5_fsdp and vae_parallel" if world_size > 1 else ""
        raise SpecError(
            "image_size",
            f"{spec.image_size} with {spec.num_frames} frames{kept} and ulysses_size "
            f"{ulysses_size} needs about {needed_gib:.1f} GiB of each rank's memory, of which "
            f"{usable_gib:.1f} GiB can be used; ask for a smaller or shorter video{split}",
        )


def _demand(spec: JobSpec, memory: GroupMemory, cfg_size: int, ulysses_size: int) -> Demand:
    def chosen(wanted: bool | None, default: bool) -> bool:
        return default if wanted is None else wanted

    is_split = chosen(spec.vae_parallel, memory.vae_parallel)
    num_rows, num_cols = memory.vae_grid if is_split else (1, 1)
    patch_height_px = -(-spec.height_px // 8 // num_rows) * 8
    patch_width_px = -(-spec.width_px // 8 // num_cols) * 8
    return Demand(
        num_tokens=-(-_num_tokens(spec) // ulysses_size),
        num_pixels=patch_height_px * patch_width_px,
        num_branches=1 if cfg_size == 2 or spec.guidance_scale <= 1.0 else 2,
        keeps_attention=spec.use_attentioncache,
        dit_fsdp=chosen(spec.dit_fsdp, memory.dit_fsdp),
        t5_fsdp=chosen(spec.t5_fsdp, memory.t5_fsdp),
    )
