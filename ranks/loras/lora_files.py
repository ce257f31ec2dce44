"""The files of LoRAs: those in a folder, what identifies them, and what fits a model."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import structs

from broker.wire.lora import LORA_NAME_PATTERN, KnownLora
from broker.wire.model_profile import ModelProfile
from ranks.errors import LoraFileError
from ranks.loras.lora_file import LoraChanges, WeightedChanges, read_changes
from ranks.loras.lora_names import without_numbers
from ranks.model_files.architecture import shapes_of
from ranks.model_files.components import TRANSFORMERS, ModelFiles

_SUFFIX = ".safetensors"
_HIGH, _LOW = ".high", ".low"
"""End the names of the two files for a model with two transformers."""


class FileStamp(msgspec.Struct, frozen=True):
    """What changes with the content of a file, without reading it."""

    num_bytes: int
    modified_ns: int
    changed_ns: int
    """Of its inode: no program can set it."""
    inode: int


class LoraFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA on disk."""

    name: str
    paths: tuple[str, ...]
    """One file, or one for each transformer, in the order of the steps that they compute."""
    hashes: tuple[str, ...] = ()
    """SHA-256 of each file, in hexadecimal."""
    stamps: tuple[FileStamp, ...] = ()
    """Of each file when it was hashed."""
    strength: float = 1.0

    def identified(self) -> "LoraFiles":
        """Return it with its hashes and stamps; reads the files as a whole.

        Raises:
            LoraFileError: If a file cannot be read, or is written to at the same time.
        """
        before = self.stamps_now()
        hashes = tuple(map(_hash, self.paths))
        if self.stamps_now() != before:
            raise LoraFileError(f"LoRA {self.name} is being written; start again when it is whole")
        return structs.replace(self, hashes=hashes, stamps=before)

    def stamps_now(self) -> tuple[FileStamp, ...]:
        """Return the stamps of the files as they are.

        Raises:
            LoraFileError: If a file cannot be read.
        """
        return tuple(map(_stamp, self.paths))


def find_in_folder(folder: Path) -> tuple[list[LoraFiles], list[str]]:
    """Return the LoRAs in a folder by its file names, and why others are left out.

    `NAME.safetensors` is a LoRA; `NAME.high.safetensors` and `NAME.low.safetensors` are one, for a
    model with two transformers.
    """
    found, faults = [], []
    files = {p.name.removesuffix(_SUFFIX): p for p in sorted(folder.glob(f"*{_SUFFIX}"))}
    for stem, path in files.items():
        name = stem.removesuffix(_HIGH).removesuffix(_LOW)
        if not re.fullmatch(LORA_NAME_PATTERN, name):
            faults.append(
                f"{path.name!r}: the name of a LoRA has letters, digits, dots, dashes and "
                "underscores, at most 100, and begins with a letter or digit"
            )
        elif name == stem:
            found.append(LoraFiles(name=name, paths=(str(path),)))
        elif name in files:
            faults.append(f"{path.name}: there is {name}{_SUFFIX}, too; give it another name")
        elif (other := f"{name}{_LOW if stem.endswith(_HIGH) else _HIGH}") not in files:
            faults.append(f"{path.name}: its partner {other}{_SUFFIX} is missing")
        elif stem.endswith(_HIGH):
            found.append(LoraFiles(name=name, paths=(str(path), str(files[other]))))
    return found, faults


def changes_of(lora: LoraFiles, files: ModelFiles) -> list[LoraChanges]:
    """Return what a LoRA changes in each transformer of a model.

    Raises:
        LoraFileError: If it does not fit the model.
        ModelFolderError: If a file is no whole safetensors file.
    """
    components = files.transformers
    num_files = len(lora.paths)
    if num_files not in (1, len(components)):
        raise LoraFileError(
            f"LoRA {lora.name} has {num_files} files, but {files.place} has one transformer; "
            "expected one file"
        )
    paths = lora.paths * (len(components) // num_files)
    changes = [
        read_changes(
            Path(path), shapes_of("transformer", part.config), expert, is_alone=num_files == 1
        )
        for expert, (path, part) in enumerate(zip(paths, components, strict=True))
    ]
    for part, found in zip(components, changes, strict=True):
        if any(part.weights[name].scale is not None for name in found.terms):
            raise LoraFileError(
                f"LoRA {lora.name} changes weights that {part.place} holds as 8-bit numbers; serve "
                "the plain weights, with --quantize if they are to be 8-bit numbers"
            )
    for path in dict.fromkeys(paths):
        if not any(found.terms for found in changes if found.path == Path(path)):
            raise LoraFileError(
                f"{path} changes no weight of {files.place}; expected a LoRA of the family "
                f"{files.family}"
            )
    return changes


def with_merged(files: ModelFiles, loras: Sequence[LoraFiles]) -> ModelFiles:
    """Return a model whose transformers have LoRAs merged into them when they are loaded.

    Raises:
        LoraFileError: If one does not fit the model.
        ModelFolderError: If a file is no whole safetensors file.
    """
    found = [(changes_of(lora, files), lora.strength) for lora in loras]
    names = [name for name in TRANSFORMERS if name in files.components]
    changed = {
        name: structs.replace(
            files.components[name],
            loras=tuple(WeightedChanges(changes[n], strength) for changes, strength in found),
        )
        for n, name in enumerate(names)
    }
    return structs.replace(files, components={**files.components, **changed})


def unused_names(changes: Sequence[LoraChanges]) -> list[str]:
    """Return the tensors that no transformer has a place for, those of all blocks as one."""
    unused: set[str] = set()
    for path in {part.path for part in changes}:
        unused |= set.intersection(*(set(p.unused) for p in changes if p.path == path))
    return sorted({without_numbers(name) for name in unused})


def profile_with(
    profile: ModelProfile, offered: Sequence[LoraFiles], merged: Sequence[LoraFiles]
) -> ModelProfile:
    """Return the profile of a model that jobs may change with some LoRAs, and others have changed.

    The latter make another model of it, with another content hash.
    """
    known = tuple(
        KnownLora(name=lora.name, hashes=lora.hashes, strength=lora.strength) for lora in merged
    )
    content_hash = profile.content_hash
    if known:
        content = msgspec.json.encode((content_hash, known), order="deterministic")
        content_hash = hashlib.sha256(content).hexdigest()
    return structs.replace(
        profile,
        content_hash=content_hash,
        loras=tuple(KnownLora(name=lora.name, hashes=lora.hashes) for lora in offered),
        merged_loras=known,
    )


def _hash(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LoraFileError(f"{path} cannot be read: {error.strerror}") from error


def _stamp(path: str) -> FileStamp:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise LoraFileError(f"{path} cannot be read: {error.strerror}") from error
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
