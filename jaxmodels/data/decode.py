"""One image file to uint8 RGB pixels on the host, and the resizes that evaluation and training start from.

    pixels = decode("cat.jpg")                        # uint8 [h, w, 3], upright
    inputs = resize_and_crop(pixels)                  # uint8 [224, 224, 3], Pillow's and torchvision's pixels

What a file cannot say itself is decided here, the same for every format: transparency is composited on white,
EXIF (or XMP) orientation is applied, the first frame of an animation is taken, and more than 8 bits are scaled
to 8, never clipped. Colour profiles (ICC) are out of scope: numbers are taken as sRGB. No global state of
Pillow is read, written or relied upon, so that the limit on pixels is ours and holds in every thread.
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import stat
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxmodels.core import InputError
from jaxmodels.data import metadata

MAX_PIXELS = 128 * 1024 * 1024
"""The largest image that is decoded by default, in pixels: 384 MiB of RGB."""

INTERPOLATIONS = ("bilinear", "bicubic")

Source = str | os.PathLike | bytes | bytearray | memoryview


def default_workers() -> int:
    """How many threads decode at once by default: the processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class DecodeError(InputError):
    """An image file that cannot be used; ``source`` is its path and ``reason`` one line."""

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source!r} {self.reason}"


class _Refused(Exception):
    """A reason without its file's name."""


def decode(source: Source, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image to upright RGB.

    Reads JPEG, PNG, GIF, BMP, WebP, TIFF and, where this Pillow was built with it, AVIF. Grey, palette, CMYK and
    alpha become RGB. 16-bit grey is divided by 257 and 12-bit TIFF by 4095/255; 32-bit integers and floats, which
    have no fixed range, by the smallest of 1 (floats), 255 and 65535 that holds them, and are stretched from
    their minimum to their maximum otherwise. JPEGs go through simplejpeg where it is installed.

    Args:
      source: a path, or the bytes of a file.
      max_pixels: the most pixels, width times height; checked before any pixel is decoded.

    Returns:
      uint8 ``[h, w, 3]``.

    Raises:
      DecodeError: names the file and why it does not decode, in one line.

    >>> decode(b"not an image")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    jaxmodels.data.decode.DecodeError: 'image bytes' is not a JPEG, PNG, GIF, BMP, WebP, TIFF or AVIF file: ...
    """
    return _decode(source, max_pixels, _decode_jpeg)


def verify(source: Source, *, max_pixels: int = MAX_PIXELS) -> None:
    """Raise the ``DecodeError`` that ``decode`` would, for less work: JPEGs are read to their end at 1/8 scale.

    >>> verify(b"")
    Traceback (most recent call last):
    ...
    jaxmodels.data.decode.DecodeError: 'image bytes' is empty (zero bytes)
    """
    _decode(source, max_pixels, functools.partial(_decode_jpeg, thumbnail=True))


def _decode(source: Source, max_pixels: int, decode_jpeg) -> np.ndarray:
    name, data = _read(source)
    try:
        kind = _kind(data)
        if kind != "JPEG":
            return _decode_with_pillow(kind, data, max_pixels)
        header = metadata.jpeg_header(data)
        if header is None:
            raise _Refused("is a JPEG file without a frame: it is truncated or corrupt")
        _check_size(header.width, header.height, max_pixels)
        return _upright(decode_jpeg(data, header), header.orientation)
    except _Refused as refused:
        raise DecodeError(name, str(refused)) from refused.__cause__


def _read(source: Source) -> tuple[str, bytes]:
    if isinstance(source, bytes | bytearray | memoryview):
        return "image bytes", bytes(source)
    path = os.fspath(source)
    try:
        # Opening a pipe would wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DecodeError(path, "is not a file")
        with open(path, "rb") as file:
            return path, file.read()
    except OSError as error:
        raise DecodeError(path, f"cannot be read: {error.strerror}") from error


_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_HEIF_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC"}


def _kind(data: bytes) -> str:
    """The format by the file's first bytes; its name is not trusted."""
    if not data:
        raise _Refused("is empty (zero bytes)")
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    kind = _HEIF_BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    if kind == "HEIC":
        raise _Refused("is a HEIC photograph, which Pillow cannot read: convert it to JPEG")
    if kind is None:
        raise _Refused(f"is not a JPEG, PNG, GIF, BMP, WebP, TIFF or AVIF file: it starts with {data[:8]!r}")
    return kind


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise _Refused(f"has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise _Refused(f"has {width} x {height} = {width * height} pixels, more than max_pixels={max_pixels}")


def _decode_jpeg(data: bytes, header: metadata.JpegHeader, thumbnail: bool = False) -> np.ndarray:
    """Pixels as stored, or 1/8 of them a side. Pillow, the more lenient, has the last word on refusals."""
    simplejpeg = _simplejpeg()
    if simplejpeg is not None and header.components in (1, 3):
        try:
            return simplejpeg.decode_jpeg(data, "RGB", min_height=int(thumbnail), min_width=int(thumbnail))
        except ValueError:
            pass
    # Pillow's EXIF reader warns of every photograph with a broken tag, and warnings cannot be caught in a thread.
    image = _open("JPEG", header.without_metadata)
    if thumbnail:
        image.draft(None, (1, 1))
    return _to_rgb(_load(image))


@functools.cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _decode_with_pillow(kind: str, data: bytes, max_pixels: int) -> np.ndarray:
    image = _open(kind, data)
    width, height = image.size
    _check_size(width, height, max_pixels)
    pixels = _to_rgb(_load(image))
    # Read after the pixels: a PNG may carry its EXIF behind them.
    return _upright(pixels, _pillow_orientation(image))


def _pillow(module: str) -> Any:
    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError as error:
        raise InputError("reading images needs Pillow: pip install 'jaxmodels[images]'") from error


_READERS = {
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "WebP": ("WebPImagePlugin", "WebPImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
}


def _open(kind: str, data: bytes) -> Any:
    """The image with its header read; by its own reader, since ``Image.open`` warns by a global limit on pixels."""
    reader = _reader(kind)
    if reader is None:
        raise _Refused(f"is a {kind} file, which this Pillow cannot read: pip install 'pillow>=11.3'")
    return _attempt(kind, lambda: reader(io.BytesIO(data)))


@functools.cache
def _reader(kind: str) -> Any:
    """Pillow's class for a format, or ``None`` where this Pillow was built without it."""
    _pillow("Image")
    module, reader = _READERS[kind]
    try:
        plugin = _pillow(module)
    except InputError:
        return None
    return getattr(plugin, reader) if getattr(plugin, "SUPPORTED", True) else None


def _load(image: Any) -> Any:
    _attempt(image.format, image.load)
    return image


def _attempt(kind: str, action) -> Any:
    try:
        return action()
    except Exception as error:  # a corrupt file makes Pillow raise nearly anything: OSError, struct.error, SyntaxError
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _Refused(f"is a {kind} file that is truncated or corrupt: {reason}") from error


def _to_rgb(image: Any) -> np.ndarray:
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        return _three(_from_any_range(np.asarray(image)))
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = _attempt(image.format, lambda: _on_white(image))
    return np.array(_attempt(image.format, lambda: image.convert("RGB")))


def _on_white(image: Any) -> Any:
    Image = _pillow("Image")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_16_bit(image: Any) -> np.ndarray:
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image).astype(np.float32)
    full = 2.0 ** tags.get(258, (16,))[0] - 1
    transparent = values == image.info.get("transparency")
    if tags.get(262) == 0:  # TIFF's WhiteIsZero, which Pillow inverts for 8 bits but not for 16
        values = full - values
    return _three(np.where(transparent, 255, np.rint(values * (255 / full))).astype(np.uint8))


def _from_any_range(values: np.ndarray) -> np.ndarray:
    ranges = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _Refused("has NaN or infinite pixels")
    full = next((full for full in ranges if low >= 0 and high <= full), None)
    if full is None:
        values, full = values - low, max(high - low, np.finfo(np.float64).tiny)
    return np.rint(values / full * 255).astype(np.uint8)


def _pillow_orientation(image: Any) -> int:
    info = image.info
    if image.format == "TIFF":
        return int(image.tag_v2.get(274, 1))
    exif = info.get("exif", b"")
    if not exif and "Raw profile type exif" in info:  # ImageMagick's: a name and a length, then hexadecimal
        exif = _bytes_from_hex("".join(info["Raw profile type exif"].split("\n")[3:]))
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    return metadata.orientation(exif, xmp.encode() if isinstance(xmp, str) else xmp)


def _bytes_from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientations 2 to 8: a transposition for 5 and up, then flips of rows and columns."""
    if orientation not in range(2, 9):
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def resize_and_crop(
    pixels: UInt8[np.ndarray, "h w 3"],
    *,
    resize_size: int = 256,
    crop_size: int = 224,
    interpolation: str = "bilinear",
) -> UInt8[np.ndarray, "crop_size crop_size 3"]:
    """Resize the short side and crop the centre: the pixels that published accuracies are measured on.

    Identical to torchvision's ``Resize(resize_size)`` and ``CenterCrop(crop_size)`` on PIL images, its integer
    rounding and zero padding included. A strip so long that its resized whole would pass ``MAX_PIXELS`` is
    resized inside the crop only, within 1/255 of the same.

    Args:
      pixels: uint8 ``[h, w, 3]``.
      resize_size: short side after the resize, pixels.
      crop_size: side of the square, pixels; zeros surround a smaller image.
      interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased.

    Returns:
      uint8 ``[crop_size, crop_size, 3]``.

    >>> resize_and_crop(np.full((30, 40, 3), 7, np.uint8), resize_size=8, crop_size=6).shape
    (6, 6, 3)
    """
    Image = _pillow("Image")
    height, width = pixels.shape[:2]
    short, long = min(height, width), max(height, width)
    new_long = int(resize_size * long / short)
    new_width, new_height = (resize_size, new_long) if width <= height else (new_long, resize_size)
    image, method = Image.fromarray(pixels), _filter(interpolation)
    if new_width * new_height > MAX_PIXELS:
        return _resize_inside_crop(image, (new_width, new_height), crop_size, method)
    if (new_width, new_height) != image.size:
        image = image.resize((new_width, new_height), method)
    return _center_crop(np.array(image), crop_size)


def _filter(interpolation: str) -> Any:
    Image = _pillow("Image")
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"interpolation={interpolation!r} is not one of {', '.join(INTERPOLATIONS)}")
    return Image.Resampling[interpolation.upper()]


def _resize_inside_crop(image: Any, new_size: tuple[int, int], crop_size: int, method) -> np.ndarray:
    kept = [min(crop_size, new) for new in new_size]
    starts = [round((new - keep) / 2) * old / new for new, keep, old in zip(new_size, kept, image.size, strict=True)]
    ends = [start + keep * old / new for start, keep, old, new in zip(starts, kept, image.size, new_size, strict=True)]
    ends = [min(end, old) for end, old in zip(ends, image.size, strict=True)]
    return _center_crop(np.array(image.resize(tuple(kept), method, box=(*starts, *ends))), crop_size)


def _center_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    missing = [max(size - side, 0) for side in pixels.shape[:2]]
    if any(missing):
        pixels = np.pad(pixels, [*((extra // 2, (extra + 1) // 2) for extra in missing), (0, 0)])
    top, left = (round((side - size) / 2.0) for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def canvas(pixels: UInt8[np.ndarray, "h w 3"], *, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resize the whole image on to a square, antialiased bilinear, so that nothing of it is lost.

    The square forgets the image's shape: carry ``w / h`` along (``Canvas.aspect``), and
    ``images.random_resized_crop`` draws its boxes in the true geometry.

    >>> canvas(np.full((30, 40, 3), 7, np.uint8), size=8).shape
    (8, 8, 3)
    """
    Image = _pillow("Image")
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
