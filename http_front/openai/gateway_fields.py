"""Fields that gateways and other servers' clients send: other names of ours, or without effect."""

from collections.abc import Mapping

from broker.wire.job import SpecError
from broker.wire.model_profile import ModelProfile
from http_front.video.size_field import AreaLimit, read_aspect_ratio, read_size

_WITHOUT_EFFECT = frozenset(
    {
        *("user", "metadata", "response_format", "safety_identifier", "service_tier", "store"),
        *("provider", "output_format", "quality", "output_quality", "output_compression"),
    }
)
"""They change nothing about the video's content, whatever their value."""
_SAME_AS_HERE: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("n", "num_outputs", "num_outputs_per_prompt", "num_videos"), (1, "1")),
    **dict.fromkeys(
        (
            *("stream", "watermark", "prompt_extend", "enhance_prompt", "use_prompt_enhancer"),
            *("generate_audio", "generate_sound", "with_audio", "enable_upscaling"),
            *("enable_frame_interpolation", "enable_teacache"),
        ),
        (False, "false", "False", 0, "0"),
    ),
}
"""They ask for what this server does anyway if they have one of these values."""
_OTHER_NAMES = {
    "duration": "seconds",
    "infer_steps": "num_inference_steps",
    "steps": "num_inference_steps",
    "step": "num_inference_steps",
    "sample_shift": "flow_shift",
    "cfg_scale": "guidance_scale",
    "image_size": "size",
    "resolution": "size",
}

_LEEWAY = 0.1
"""How far a size may be from an aspect ratio: sides are rounded, as those of 16:9 to 832x480."""


def drop_without_effect(fields: dict[str, object]) -> None:
    """Remove the fields that change nothing about the video."""
    for name, value in list(fields.items()):
        if name in _WITHOUT_EFFECT or value in _SAME_AS_HERE.get(name, ()):
            del fields[name]


def use_our_names(fields: dict[str, object]) -> None:
    """Rename fields with another name; one that would then be there twice is left to be refused."""
    for name, ours in _OTHER_NAMES.items():
        if name in fields and fields.get(ours) is None:
            fields[ours] = fields.pop(name)


def settle_size(fields: dict[str, object], profile: ModelProfile) -> AreaLimit | None:
    """Replace the fields of the size by `size`; return the limit if the image decides the shape.

    Raises:
        SpecError: If they contradict each other, or the model cannot make the size.
    """
    width, height = fields.pop("width", None), fields.pop("height", None)
    ratio = fields.pop("aspect_ratio", None)
    if width is not None or height is not None:
        _use_sides(fields, width, height)
    size = fields.get("size")
    if size is not None and not isinstance(size, str):
        return None  # to be refused by its type
    if ratio is None:
        return _settled(fields, None if size is None else read_size(size, profile))
    shape = read_aspect_ratio(str(ratio))
    limit = read_size("auto" if size is None else size, profile)
    if isinstance(limit, str):
        _check_shape(limit, shape, str(ratio))
    elif shape is not None:
        limit = limit.size_of(*shape)
    return _settled(fields, limit)


def _settled(fields: dict[str, object], size: str | AreaLimit | None) -> AreaLimit | None:
    if isinstance(size, AreaLimit):
        fields["size"] = size.any_size
        return size
    if size is not None:
        fields["size"] = size
    return None


def _use_sides(fields: dict[str, object], width: object, height: object) -> None:
    if width is None or height is None:
        name = "height" if height is None else "width"
        raise SpecError(name, "give both width and height, or size as 1280x720")
    text = f"{width}x{height}"
    if fields.get("size") not in (None, text, text.replace("x", "*")):
        raise SpecError("size", f"size and width, height differ: {fields['size']} and {text}")
    fields["size"] = text


def _check_shape(size: str, shape: tuple[int, int] | None, ratio: str) -> None:
    """Refuse an aspect ratio that contradicts a size in pixels."""
    width, _, height = size.replace("*", "x").partition("x")
    if shape is None or not (width.isdigit() and height.isdigit() and int(height)):
        return
    if abs(int(width) / int(height) * shape[1] / shape[0] - 1) > _LEEWAY:
        raise SpecError("aspect_ratio", f"aspect_ratio is {ratio[:60]}; size is {size}")
