"""Reads from the header of a LoRA file which of a transformer's weights it changes, and how."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from ranks.errors import LoraFileError
from ranks.loras.adapter_metadata import AdapterScale, read_adapter_scale
from ranks.loras.lora_names import LoraKey, Part, take_apart, weight_of
from ranks.model_files.safetensors_header import StoredTensor, read_header

Shape = tuple[int, ...]

_DTYPES = ("F32", "BF16", "F16")
_WHOLE = (Part.DIFF, Part.DIFF_BIAS, Part.DIFF_TABLE, Part.UP_BIAS)


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one weight: `up`, or `up` times `down`; the names are those in the file.

    It is to be multiplied with `scale`, and with the number in `alpha` if there is one.
    """

    up: str
    down: str | None = None
    alpha: str | None = None
    scale: float = 1.0


class LoraChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What a file changes in one transformer."""

    path: Path
    terms: dict[str, list[Term]]
    """By the name of the changed weight, as diffusers names it."""
    unused: list[str]
    """Tensors that have no place in the transformer."""


class WeightedChanges(msgspec.Struct, frozen=True):
    """The changes of a LoRA, and how strongly they are made."""

    changes: LoraChanges
    strength: float


def read_changes(
    path: Path, shapes: Mapping[str, Shape], expert: int, *, is_alone: bool
) -> LoraChanges:
    """Return what a file changes in a transformer.

    Args:
        path: A safetensors file.
        shapes: Of the transformer's weights, by their names in diffusers.
        expert: The transformer's index among those of the model.
        is_alone: Whether there is no file for another transformer, so that names may tell.

    Raises:
        LoraFileError: If the file holds something else, or does not fit the transformer.
        ModelFolderError: If it is no whole safetensors file.
    """
    header = read_header(path)
    keys = _keys(path, header)
    if is_alone and any(key.expert == 1 for key in keys.values()):
        keys = {name: key for name, key in keys.items() if key.expert in (None, expert)}
    reader = _ChangeReader(path, header, shapes, read_adapter_scale(path))
    return reader.read(keys)


class _ChangeReader:
    def __init__(
        self,
        path: Path,
        header: Mapping[str, StoredTensor],
        shapes: Mapping[str, Shape],
        scale: AdapterScale,
    ) -> None:
        self._path, self._header, self._shapes, self._scale = path, header, shapes, scale

    def read(self, keys: Mapping[str, LoraKey]) -> LoraChanges:
        modules: dict[str, dict[Part, str]] = defaultdict(dict)
        for name, key in keys.items():
            parts = modules[key.module]
            if key.part in parts:
                raise LoraFileError(
                    f"{self._path} holds {parts[key.part]} and {name}, the same part twice; "
                    "expected one LoRA in a file"
                )
            parts[key.part] = name
        terms: dict[str, list[Term]] = defaultdict(list)
        for module, parts in modules.items():
            for weight, term in self._terms(module, parts):
                terms[weight].append(term)
        used = {name for part in terms.values() for term in part for name in _names(term)}
        return LoraChanges(
            path=self._path, terms=dict(terms), unused=[n for n in keys if n not in used]
        )

    def _terms(self, module: str, parts: Mapping[Part, str]) -> Iterator[tuple[str, Term]]:
        alpha, scale = parts.get(Part.ALPHA), 1.0
        if Part.DOWN in parts or Part.UP in parts:
            up, down = self._pair(parts)
            # Only together with a rank does an alpha say anything.
            scale = self._pair_scale(module, self._header[down].shape[0], alpha)
            weight = weight_of(LoraKey(module, Part.UP, None), self._shapes)
            if weight is not None:
                self._check_pair(up, down, weight)
                yield weight, Term(up=up, down=down, alpha=alpha, scale=scale)
        for part in _WHOLE:
            weight = weight_of(LoraKey(module, part, None), self._shapes)
            if part in parts and weight is not None:
                name = parts[part]
                self._check_whole(name, weight)
                is_scaled = part is Part.UP_BIAS
                yield (
                    weight,
                    Term(up=name, alpha=alpha, scale=scale) if is_scaled else Term(up=name),
                )

    def _pair(self, parts: Mapping[Part, str]) -> tuple[str, str]:
        up, down = parts.get(Part.UP), parts.get(Part.DOWN)
        if up is None or down is None:
            raise LoraFileError(
                f"{self._path} holds {up or down} without its partner; expected both factors of "
                "a low-rank change"
            )
        shapes = self._header[up].shape, self._header[down].shape
        if min(map(len, shapes)) < 2 or shapes[0][1] != shapes[1][0] or not shapes[1][0]:
            raise LoraFileError(
                f"{self._path}: {up} has the shape {list(shapes[0])} and {down} "
                f"{list(shapes[1])}; expected the same rank, at least 1, in both"
            )
        return up, down

    def _pair_scale(self, module: str, rank: int, alpha: str | None) -> float:
        if alpha is None:
            return self._scale.of(module, rank)
        if math.prod(self._header[alpha].shape) != 1:
            raise LoraFileError(
                f"{self._path}: {alpha} has the shape {list(self._header[alpha].shape)}; "
                "expected one number"
            )
        return 1.0 / rank

    def _check_pair(self, up: str, down: str, weight: str) -> None:
        ups, downs = self._header[up].shape, self._header[down].shape
        made, expected = (ups[0], math.prod(downs[1:])), self._shapes[weight]
        is_matrix = math.prod(ups[2:]) == 1 and len(expected) > 1
        if not is_matrix or made != (expected[0], math.prod(expected[1:])):
            self._refuse(f"{up} times {down} changes a weight of {list(made)}", weight)

    def _check_whole(self, name: str, weight: str) -> None:
        if (shape := self._header[name].shape) != self._shapes[weight]:
            self._refuse(f"{name} has the shape {list(shape)}", weight)

    def _refuse(self, found: str, weight: str) -> None:
        raise LoraFileError(
            f"{self._path}: {found}, but {weight} of the model is {list(self._shapes[weight])}; "
            "expected a LoRA of the same family and size"
        )


def _keys(path: Path, header: Mapping[str, StoredTensor]) -> dict[str, LoraKey]:
    keys = {}
    for name, tensor in header.items():
        key = take_apart(name)
        if key is None:
            raise LoraFileError(
                f"{path} holds {name}, which is in no known form; expected a LoRA of low-rank "
                "factors or differences (not DoRA, LoHa or LoKr)"
            )
        if key.part is not Part.ALPHA and tensor.dtype not in _DTYPES:
            raise LoraFileError(
                f"{path} holds {name} as {tensor.dtype}; expected {', '.join(_DTYPES)}"
            )
        keys[name] = key
    return keys


def _names(term: Term) -> list[str]:
    return [name for name in (term.up, term.down, term.alpha) if name is not None]
