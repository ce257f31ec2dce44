"""A CMYK colour profile made by hand: no library makes one, and other profiles are not free.

Its inks are wrong on purpose: cyan looks green, magenta looks blue and yellow looks red. If the
profile of an image is ignored, its colours are visibly different.
"""

import itertools
import struct

from PIL import Image, ImageCms

# The sRGB colour of each full ink on white paper: cyan, magenta, yellow, black.
_LEAVES = ((0, 255, 0), (0, 0, 255), (255, 0, 0), (0, 0, 0))


def odd_inks() -> bytes:
    """Return the profile: ICC version 2, CMYK to Lab by a table."""
    tags = {b"A2B0": _table(), b"wtpt": _xyz(0.9642, 1.0, 0.8249)}
    place = 128 + 4 + 12 * len(tags)
    index, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        index += struct.pack(">4sII", name, place + len(data), len(body))
        data += body
    whole = 128 + len(index) + len(data)
    head = struct.pack(
        ">I4sI4s4s4s12x4s", whole, b"", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp"
    )
    return head.ljust(68, b"\0") + _d50() + bytes(48) + index + data


def _d50() -> bytes:
    return struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _table() -> bytes:
    """Return the colours of all 16 combinations of the 4 inks: 2 grid points per ink."""
    unit = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    head = struct.pack(">4s4x4B9i", b"mft1", 4, 3, 2, 0, *(value * 65536 for value in unit))
    straight = bytes(range(256))
    colours = b"".join(_lab(inks) for inks in itertools.product((0, 1), repeat=4))
    return head + straight * 4 + colours + straight * 3


def _lab(inks: tuple[int, ...]) -> bytes:
    """Return the colour of several full inks printed together, as three bytes of Lab."""
    layers = [leaves for ink, leaves in zip(inks, _LEAVES, strict=True) if ink]
    red, green, blue = (min(values) for values in zip((255, 255, 255), *layers, strict=True))
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    converted = ImageCms.applyTransform(Image.new("RGB", (1, 1), (red, green, blue)), to_lab)
    assert converted is not None
    lightness, a, b = converted.tobytes()
    # In Pillow, a and b are signed bytes; in a profile, byte 0 means -128.
    return bytes([lightness, (a + 128) % 256, (b + 128) % 256])
