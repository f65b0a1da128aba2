"""What an image file says of itself: a JPEG's size, and which way up the pixels are.

Photographs carry broken EXIF often enough that a reader which warns of it, as Pillow's does, is of no use in a
decoding thread. Here broken metadata is no metadata.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple


class JpegHeader(NamedTuple):
    """What decoding needs to know before it starts."""

    width: int
    height: int
    components: int
    """1: grey; 3: colour; 4: CMYK."""
    orientation: int
    """EXIF's 1 to 8."""
    without_metadata: bytes
    """The file less its EXIF, profiles and other notes."""


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """``(marker, start, end)`` of the segments before the pixels; junk between them is passed over, as libjpeg does."""
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            return
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position, end
        position = end


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG, or ``None`` where the file ends before its frame."""
    frame, exif, xmp = None, b"", b""
    kept, copied = [], 0
    for marker, start, end in _jpeg_segments(data):
        body = data[start + 4 : end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            frame = frame or struct.unpack(">xHHB", body[:6])
        elif 0xE1 <= marker <= 0xED:
            exif = exif or (body if body.startswith(b"Exif\0\0") else b"")
            xmp = xmp or (body if body.startswith(b"http://ns.adobe.com/xap/1.0/\0") else b"")
            kept.append(data[copied:start])
            copied = end
    if frame is None:
        return None
    height, width, components = frame
    return JpegHeader(width, height, components, orientation(exif, xmp), b"".join([*kept, data[copied:]]))


def orientation(exif: bytes, xmp: bytes) -> int:
    """EXIF's orientation, else XMP's, else 1: upright."""
    found = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
    if found is None:
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
        found = int(match[1]) if match else 1
    return found


def _exif_orientation(exif: bytes) -> int | None:
    """Tag 274 of the first directory, or ``None``; broken metadata is no metadata."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return None
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, start) if start + 2 <= len(exif) else (0,)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        size = {1: "B", 3: "H", 4: "I"}.get(kind)
        if tag == 274 and size:
            return struct.unpack_from(order + size, exif, entry + 8)[0]
    return None
