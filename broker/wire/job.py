"""What a job is: the parameters of a video, the states of a job, the stages of an attempt."""

import re
from enum import Enum
from functools import lru_cache
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from broker.wire.lora import MAX_LORAS, LoraChoice

FRAMES_PER_SECOND = 16
MAX_PIXELS = 921_600
MIN_SIDE_PX = 64
SIDE_MULTIPLE_PX = 16
MAX_PROMPT_CHARS = 5000
"""More than the text encoders read of any text: 512 tokens, some 2,000 letters."""
MAX_PROMPT_TOKENS = 512
"""What the text encoders read of a prompt; they leave out the rest."""
MAX_SEED = 2**63 - 1

MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
JOB_ID_PATTERN = "[0-9a-f]{32}"
IMAGE_PATTERN = r"[0-9a-f]{64}\.(?:webp|ppm)"
"""Earlier versions stored images as PPM."""
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
Solver = Literal["unipc", "dpm++", "euler"]
SolverSpelling = Literal[Solver, "dpmpp"]
StepCacheName = Literal["easycache", "magcache", "teacache"]
ModelName = Annotated[str, Meta(pattern=MODEL_NAME_PATTERN)]


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of one video: the only definition of their names, defaults and ranges.

    The HTTP checks, the OpenAPI document and the broker's checks derive from it.

    Raises:
        SpecError: If fields contradict each other (msgspec wraps it in a `ValidationError`).
    """

    prompt: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_PROMPT_CHARS,
            description="What the video shows.",
            examples=["A small sailing boat drifts across a calm bay"],
        ),
    ]
    image_size: Annotated[
        str,
        Meta(
            description="Width and height in pixels, `W*H` or `WxH`: each a multiple of 16 and at "
            "least 64, at most 921600 pixels together.",
            extra_json_schema={"pattern": r"^[0-9]{1,5}[*x][0-9]{1,5}$"},
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
    guidance_scale_2: (
        Annotated[
            float,
            Meta(
                ge=1.0,
                le=20.0,
                description="Guidance scale of the second transformer, at low noise, of models "
                "that have one; the value of `guidance_scale` if left out.",
            ),
        ]
        | None
    ) = None
    guidance_end: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1.0,
            description="Fraction of the steps after which guidance is off, which halves their "
            "work.",
        ),
    ] = 1.0
    infer_steps: Annotated[int, Meta(ge=1, le=100, description="Number of denoising steps.")] = 30
    seed: (
        Annotated[
            int,
            Meta(ge=0, le=MAX_SEED, description="Seed of the noise; random if left out."),
        ]
        | None
    ) = None
    model: (
        Annotated[
            str,
            Meta(
                pattern=MODEL_NAME_PATTERN,
                description="Name of the model; the server's default if left out.",
                extra={"allowed": "the name of a model"},
            ),
        ]
        | None
    ) = None
    negative_prompt: (
        Annotated[
            str,
            Meta(
                max_length=MAX_PROMPT_CHARS,
                description="Negative prompt: what the video should not show.",
            ),
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
    step_cache: (
        Annotated[
            StepCacheName,
            Meta(
                description="Skip steps that differ little from those before them (lossy, faster), "
                "as the model offers it; not together with the attention cache.",
            ),
        ]
        | None
    ) = None
    step_cache_threshold: (
        Annotated[
            float,
            Meta(
                ge=0.0,
                le=1.0,
                description="How much error the skipped steps may add up to: more skips more, 0 "
                "skips none; the model's default if left out.",
            ),
        ]
        | None
    ) = None
    sample_solver: Annotated[
        SolverSpelling, Meta(description="Sampler; `dpmpp` is an alias of `dpm++`.")
    ] = "unipc"
    sample_shift: Annotated[
        float, Meta(gt=0.0, le=100.0, description="Shift of the noise schedule.")
    ] = 5.0
    loras: Annotated[
        tuple[LoraChoice, ...],
        Meta(
            max_length=MAX_LORAS,
            description="LoRAs of the server that change the model for this video, by name and "
            "with a strength.",
        ),
    ] = ()

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
        self._check_step_cache()

    def _check_step_cache(self) -> None:
        if self.step_cache is None and self.step_cache_threshold is not None:
            raise SpecError(
                "step_cache_threshold",
                f"step_cache_threshold is {self.step_cache_threshold}, without step_cache; name "
                f"one of {', '.join(get_args(StepCacheName))}",
            )
        if self.step_cache is not None and self.use_attentioncache:
            # A step that is skipped computes no attention, which the other cache would then miss.
            raise SpecError(
                "step_cache",
                f"step_cache is {self.step_cache} and use_attentioncache is true; a job can use "
                "one of them",
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
    def is_guided(self) -> bool:
        """Whether any step computes both guidance branches."""
        is_on = max(self.guidance_scale, self.guidance_scale_2 or 0.0) > 1.0
        return is_on and self.num_guided_steps > 0

    @property
    def num_guided_steps(self) -> int:
        """Steps before guidance ends; with a guidance scale of 1, they have none either."""
        return round(self.guidance_end * self.infer_steps)

    @property
    def solver(self) -> Solver:
        return solver_of(self.sample_solver)


def solver_of(spelling: SolverSpelling) -> Solver:
    return "dpm++" if spelling == "dpmpp" else spelling


@lru_cache(maxsize=1024)  # each check and estimate of a job asks again
def parse_size(image_size: str) -> tuple[int, int]:
    """Return width and height in pixels of `W*H` or `WxH`.

    Raises:
        SpecError: If the text has another form.
    """
    match = _SIZE.fullmatch(image_size)
    if match is None:
        raise SpecError(
            "image_size",
            f'image_size is "{image_size[:60]}"; write width and height as 1280*720',
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
