"""Decoding against Pillow itself, on every odd file, every mode and every truncation; resizes against Pillow's."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxmodels.core import InputError
from jaxmodels.data import decode, metadata
from jaxmodels.data.decode import DecodeError

pytest.importorskip("PIL", reason="needs Pillow: pip install 'jaxmodels[images]'")
from PIL import Image, ImageFile, ImageOps, features

# Shape (height, width), or a piece of the reason.
ODD = {
    "12bit.cropped.tif": (100, 100),
    "1_trns.png": (64, 64),
    "LICENSE.pillow": "is not a JPEG, PNG, GIF, BMP, WebP, TIFF or AVIF file: it starts with b'The Pyth'",
    "badwidth.bmp": "has 4294967169 x 64 = 274877898816 pixels, more than max_pixels=134217728",
    "broken_data_stream.png": "is a PNG file that is truncated or corrupt",
    "chi.gif": (240, 320),
    "decompression_bomb.ico": "is not a JPEG",
    "exif.avif": (512, 512),
    "exif_imagemagick_orientation.png": (512, 512),
    "hopper-missing-pixi.avif": (128, 128),
    "hopper.bmp": (128, 128),
    "hopper.jpg": (128, 128),
    "hopper.tif": (128, 128),
    "hopper_16bit_qtables.jpg": (128, 128),
    "hopper_float_dpi_3.tif": (128, 128),
    "hopper_lzw.tif": (128, 128),
    "hopper_orientation_3.jpg": (128, 128),
    "hopper_orientation_5.jpg": (128, 128),
    "hopper_orientation_7.jpg": (128, 128),
    "i_trns.png": (64, 64),
    "icc_profile.avif": (57, 57),
    "icc_profile_none.avif": (57, 57),
    "iss634.gif": (245, 245),
    "jpeg_ff00_header.jpg": (225, 300),
    "l_trns.png": (64, 64),
    "mode_palette_alpha.png": (64, 128),
    "orientation_rectangle.jpg": (2, 1),
    "pil123p.png": (150, 162),
    "pil_sample_cmyk.jpg": (100, 100),
    "png_decompression_dos.png": "is a PNG file that is truncated or corrupt: Decompressed data too large",
    "reallybig.bmp": "has 3000000 x 2000000 = 6000000000000 pixels",
    "rot0mir0.avif": (427, 640),
    "rot1mir0.avif": (427, 640),
    "rot2mir0.avif": (427, 640),
    "rot3mir0.avif": (427, 640),
    "shortfile.bmp": "is a BMP file that is truncated or corrupt",
    "tRNS_null_1x1.png": (1, 1),
    "tiny.png": (4, 4),
    "transparent.gif": (150, 200),
    "transparent.webp": (150, 200),
    "truncated_end_chunk.png": "is a PNG file that is truncated or corrupt",
    "truncated_jpeg.jpg": "is a JPEG file that is truncated or corrupt",
    "uncompressed_la.png": (128, 128),
    "xmp_tags_orientation.avif": (268, 326),
    "zero_width.gif": "is a GIF file that is truncated or corrupt",
}


def by_pillow(source):
    """Pillow's own way: open, transpose, composite on white."""
    image = ImageOps.exif_transpose(Image.open(source))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photograph():
    """Smooth colours with edges: 60 x 90."""
    y, x = np.mgrid[0:60, 0:90]
    pixels = np.stack([x * 2.8, y * 4.2, 128 + 100 * np.sin(x / 7) * np.cos(y / 5)], -1)
    pixels[20:35, 30:50] = (250, 10, 60)
    return pixels.astype(np.uint8)


@pytest.fixture(params=["simplejpeg", "Pillow"])
def both_decoders(request, monkeypatch):
    if request.param == "Pillow":
        monkeypatch.setattr(decode, "_simplejpeg", lambda: None)
    else:
        pytest.importorskip("simplejpeg", reason="needs simplejpeg: pip install 'jaxmodels[images]'")
    return request.param


@pytest.mark.parametrize("name", ODD)
def test_odd_files(name, data_dir, both_decoders):
    if name.endswith(".avif") and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    path, expected = data_dir / "odd_images" / name, ODD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if isinstance(expected, tuple):
            pixels = decode.decode(path)
            decode.verify(path)
            assert pixels.shape == (*expected, 3)
            assert pixels.dtype == np.uint8
            assert pixels.flags.writeable
            assert pixels.flags.c_contiguous
            return
        for function in (decode.decode, decode.verify):
            with pytest.raises(DecodeError) as caught:
                function(path)
            assert caught.value.source == str(path)
            assert expected in caught.value.reason
            assert "\n" not in str(caught.value)
            assert name in str(caught.value)


def test_the_table_is_complete(data_dir):
    assert {path.name for path in (data_dir / "odd_images").iterdir()} == set(ODD)


# Pillow clips 16 bits: those two are tested by value below.
EIGHT_BITS = [name for name, shape in ODD.items() if isinstance(shape, tuple)]
EIGHT_BITS = [name for name in EIGHT_BITS if name not in ("12bit.cropped.tif", "i_trns.png")]


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_odd_pixels_are_pillows(name, data_dir, both_decoders):
    if name.endswith(".avif") and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    path = data_dir / "odd_images" / name
    np.testing.assert_allclose(decode.decode(path).astype(int), by_pillow(path), atol=1)


def test_photographs_decode_alike(data_dir, monkeypatch):
    pytest.importorskip("simplejpeg", reason="needs simplejpeg: pip install 'jaxmodels[images]'")
    paths = sorted((data_dir / "images" / "hymenoptera").rglob("*.*"))
    assert len(paths) == 398
    paths = paths[::8] + [path for path in paths if path.suffix != ".jpg"]
    fast = [decode.decode(path) for path in paths]
    monkeypatch.setattr(decode, "_simplejpeg", lambda: None)
    for path, pixels in zip(paths, fast, strict=True):
        reference = by_pillow(path)
        np.testing.assert_allclose(pixels.astype(int), reference, atol=1)
        np.testing.assert_array_equal(decode.decode(path), reference)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG"])
def test_every_mode_that_a_format_can_hold(kind, mode, photograph):
    image = Image.fromarray(photograph)
    if mode == "I;16":
        image = Image.fromarray(photograph[..., 2].astype(np.uint16) * 250)
    else:
        image = image.convert("L").convert(mode) if mode in ("I", "F") else image.convert(mode)
    try:
        data = encode(image, kind)
        stored = Image.open(io.BytesIO(data))
        stored.load()
    except (OSError, ValueError, KeyError):
        return  # this format does not hold this mode, so there is no such file
    # Pillow itself would clip 16 bits to 8.
    expected = np.asarray(stored) / 257 if stored.mode == "I;16" else by_pillow(io.BytesIO(data))
    expected = np.rint(expected).reshape(*expected.shape[:2], -1)
    pixels = decode.decode(data)
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(expected, pixels.shape), atol=1)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"quality": 5}])
def test_jpeg_settings_decode_alike(photograph, subsampling, options, both_decoders):
    odd = Image.fromarray(photograph[:59, :87])
    data = encode(odd, "JPEG", subsampling=subsampling, **options)
    np.testing.assert_allclose(decode.decode(data).astype(int), by_pillow(io.BytesIO(data)), atol=1)


def test_jpegs_stored_as_rgb_and_grey(photograph, both_decoders):
    for image in (Image.fromarray(photograph), Image.fromarray(photograph).convert("L")):
        data = encode(image, "JPEG", quality=95, **({"keep_rgb": True} if image.mode == "RGB" else {}))
        np.testing.assert_allclose(decode.decode(data).astype(int), by_pillow(io.BytesIO(data)), atol=1)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = np.array([[0, 128, 257, 1000, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 4, 128, 255]
    for kind in ("PNG", "TIFF"):
        assert decode.decode(encode(Image.fromarray(grey), kind))[0, :, 0].tolist() == expected
    assert decode.decode(tiff(grey.astype(">u2"), 16, big_endian=True))[0, :, 1].tolist() == expected
    assert decode.decode(tiff(grey, 16, photometric=0))[0, :, 2].tolist() == [255 - each for each in expected]


def test_twelve_bits_are_scaled_by_their_own_range(data_dir):
    path = data_dir / "odd_images" / "12bit.cropped.tif"
    stored = np.asarray(Image.open(path))
    np.testing.assert_array_equal(decode.decode(path)[..., 0], np.rint(stored / 4095 * 255))
    assert decode.decode(path).max() == 2


def test_transparency_of_sixteen_bits_is_white(data_dir):
    path = data_dir / "odd_images" / "i_trns.png"
    image = Image.open(path)
    stored, key = np.asarray(image), image.info["transparency"]
    pixels = decode.decode(path)[..., 0]
    assert (stored == key).any()
    assert (pixels[stored == key] == 255).all()
    np.testing.assert_array_equal(pixels[stored != key], np.rint(stored[stored != key] / 257))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5, 1]]), [0, 128, 255]),
        (np.float32([[0, 100, 255]]), [0, 100, 255]),
        (np.float32([[0, 257, 65535]]), [0, 1, 255]),
        (np.float32([[-10, 0, 10]]), [0, 128, 255]),
        (np.float32([[7e5, 7e5, 7e5]]), [0, 0, 0]),
        (np.int32([[0, 100, 255]]), [0, 100, 255]),
        (np.int32([[0, 257, 65535]]), [0, 1, 255]),
        (np.int32([[0, 0, 2**31 - 1]]), [0, 0, 255]),
        (np.int32([[-4, 0, 4]]), [0, 128, 255]),
    ],
)
def test_unbounded_pixels_take_the_smallest_range_that_holds_them(values, expected):
    assert decode.decode(encode(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


def test_nan_pixels_are_refused():
    with pytest.raises(DecodeError, match="has NaN or infinite pixels"):
        decode.decode(encode(Image.fromarray(np.float32([[0, np.nan]])), "TIFF"))


def test_transparency_is_composited_on_white():
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    half.putpixel((1, 0), (200, 0, 0, 128))
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        pixels = decode.decode(encode(half, kind, **options))
        assert pixels[0, 0].tolist() == [255, 255, 255]
        np.testing.assert_allclose(pixels[0, 1].astype(int), [227, 127, 127], atol=1)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(decode.decode(data)[1, 1].astype(int), [255, 0, 0], atol=2)


def exif_bytes(orientation, order="<", kind=3, tag=274):
    start = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[kind], orientation)
    entries = struct.pack(order + "HHI4s", 271, 2, 2, b"x\0\0\0") + struct.pack(order + "HHI", tag, kind, 1) + value
    return b"Exif\0\0" + start + struct.pack(order + "IH", 8, 2) + entries + b"\0\0\0\0"


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_pillows(photograph, orientation, order, kind, both_decoders):
    image = Image.fromarray(photograph)
    if kind == "TIFF":
        data = encode(image, kind, tiffinfo={274: orientation})
    else:
        data = encode(image, kind, exif=exif_bytes(orientation, order))
    np.testing.assert_allclose(decode.decode(data).astype(int), by_pillow(io.BytesIO(data)), atol=1)


@pytest.mark.parametrize("template", ['<x tiff:Orientation="{}"/>', "<tiff:Orientation>{}</tiff:Orientation>"])
def test_orientation_in_xmp(photograph, template, both_decoders):
    for orientation in (1, 6, 8):
        data = encode(Image.fromarray(photograph), "JPEG", xmp=template.format(orientation).encode())
        np.testing.assert_allclose(decode.decode(data).astype(int), by_pillow(io.BytesIO(data)), atol=1)


def test_corrupt_exif_is_ignored_in_silence(photograph, both_decoders):
    whole, generator = exif_bytes(6), np.random.default_rng(0)
    spoiled = [whole[:length] for length in range(6, len(whole))]
    for _ in range(100):
        broken = bytearray(whole)
        broken[generator.integers(6, len(whole))] = generator.integers(256)
        spoiled.append(bytes(broken))
    image = Image.fromarray(photograph[:6, :9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for exif in spoiled:
            data = encode(image, "JPEG", exif=exif)
            assert sorted(decode.decode(data).shape) == [3, 6, 9]


def test_every_truncation_is_found_as_pillow_finds_it(photograph, both_decoders):
    image = Image.fromarray(photograph[:24, :32])
    files = [encode(image, "JPEG"), encode(image, "JPEG", progressive=True), encode(image, "PNG"), encode(image, "BMP")]
    for data in files:
        found = 0
        for length in range(0, len(data), 7):
            refusals = [
                refuses(function, data[:length]) for function in (decode.decode, decode.verify, by_pillow_bytes)
            ]
            assert len(set(refusals)) == 1, (length, len(data), refusals)
            found += refusals[0]
        assert found > len(data) // 7 * 0.9


def by_pillow_bytes(data):
    return by_pillow(io.BytesIO(data))


def refuses(function, data):
    try:
        function(data)
    except Exception:
        return True
    return False


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_flipped_bytes_decode_or_say_why(photograph):
    """Whatever a disk does to a file: pixels or a DecodeError, nothing else."""
    image, generator = Image.fromarray(photograph[:24, :32]), np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        whole = encode(image, kind)
        for _ in range(60):
            data = bytearray(whole)
            for place in generator.integers(len(whole), size=3):
                data[place] = generator.integers(256)
            with contextlib.suppress(DecodeError):
                assert decode.decode(bytes(data), max_pixels=10**6).dtype == np.uint8


def bomb(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in (chunk, data, b"IEND")
    )


@pytest.mark.parametrize("side", [9700, 12000, 40000])
def test_bombs_are_refused_by_our_limit_without_a_warning(side):
    """9700 squared is between Pillow's limit and its double, where Pillow warns; 12000 squared is beyond our own."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DecodeError, match=f"has {side} x {side} = {side * side} pixels, more than max_pixels=1000"):
            decode.decode(bomb(side, side), max_pixels=1000)


def test_the_limit_is_checked_for_every_format(photograph, both_decoders):
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        data = encode(Image.fromarray(photograph), kind)
        assert decode.decode(data, max_pixels=5400).shape == (60, 90, 3)
        with pytest.raises(DecodeError, match="90 x 60 = 5400 pixels, more than max_pixels=5399"):
            decode.decode(data, max_pixels=5399)


def test_nothing_global_changes(photograph, data_dir):
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    for path in sorted((data_dir / "odd_images").iterdir()):
        refuses(decode.decode, path)
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_threads_decode_alike(data_dir):
    paths = sorted((data_dir / "odd_images").iterdir()) * 2

    def outcome(path):
        try:
            return decode.decode(path).sum()
        except DecodeError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, paths)) == [outcome(path) for path in paths]


def test_paths_that_hold_no_image(tmp_path):
    with pytest.raises(DecodeError, match=r"missing.png' cannot be read: No such file"):
        decode.decode(tmp_path / "missing.png")
    with pytest.raises(DecodeError, match="is not a file"):
        decode.decode(tmp_path)
    (tmp_path / "two\nlines.png").write_bytes(b"")
    with pytest.raises(DecodeError) as caught:
        decode.decode(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(DecodeError, match=r"HEIC photograph.*convert it to JPEG"):
        decode.decode(b"\0\0\0\x18ftypheic" + b"\0" * 16)


def test_names_are_not_trusted(photograph, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode(Image.fromarray(photograph), "PNG"))
    np.testing.assert_array_equal(decode.decode(path), photograph)
    np.testing.assert_array_equal(decode.decode(memoryview(path.read_bytes())), photograph)


def test_missing_pillow_says_what_to_install(photograph, monkeypatch):
    data = encode(Image.fromarray(photograph), "PNG")
    decode._reader.cache_clear()
    for name in ("PIL", *(f"PIL.{module}" for module in ("Image", "PngImagePlugin"))):
        monkeypatch.setitem(sys.modules, name, None)
    for function in (decode.decode, lambda _: decode.canvas(photograph, size=4)):
        with pytest.raises(InputError, match=r"needs Pillow: pip install 'jaxmodels\[images\]'") as caught:
            function(data)
        # Not a fault of the file: `folder.check` must not skip it.
        assert not isinstance(caught.value, DecodeError)


def test_missing_avif_is_a_reason(monkeypatch):
    decode._reader.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    with pytest.raises(DecodeError, match="is a AVIF file, which this Pillow cannot read: pip install"):
        decode.decode(b"\0\0\0\x18ftypavif" + b"\0" * 16)
    decode._reader.cache_clear()


def test_errors_can_be_caught_and_pickled():
    with pytest.raises(InputError) as caught:
        decode.decode(b"")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value) == "'image bytes' is empty (zero bytes)"


def test_jpeg_header_less_its_metadata_has_the_same_pixels(photograph):
    data = encode(Image.fromarray(photograph), "JPEG", exif=exif_bytes(1), icc_profile=b"x" * 70000, comment=b"hello")
    header = metadata.jpeg_header(data)
    assert header[:4] == (90, 60, 3, 1)
    assert len(header.without_metadata) < len(data) - 70000
    np.testing.assert_array_equal(by_pillow_bytes(header.without_metadata), by_pillow_bytes(data))


def torchvision_resize_and_crop(image, resize_size, crop_size, method):
    """``Resize(resize_size)`` and ``CenterCrop(crop_size)`` on PIL images, as torchvision 0.22 computes them."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_long = int(resize_size * long / short)
    image = image.resize((resize_size, new_long) if width <= height else (new_long, resize_size), method)
    width, height = image.size
    if crop_size > width or crop_size > height:
        left, top = (max(crop_size - side, 0) // 2 for side in (width, height))
        right, bottom = ((max(crop_size - side, 0) + 1) // 2 for side in (width, height))
        image = ImageOps.expand(image, (left, top, right, bottom))
        width, height = image.size
    top, left = (round((side - crop_size) / 2.0) for side in (height, width))
    return np.asarray(image.crop((left, top, left + crop_size, top + crop_size)))


@pytest.mark.parametrize(("resize_size", "crop_size"), [(256, 224), (64, 64), (33, 20), (20, 33), (20, 23)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_and_crop_is_torchvisions(resize_size, crop_size, interpolation):
    generator = np.random.default_rng(0)
    for height, width in [(60, 90), (91, 60), (37, 37), (20, 20), (256, 300), (5, 64), (1, 1)]:
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ours = decode.resize_and_crop(pixels, resize_size=resize_size, crop_size=crop_size, interpolation=interpolation)
        method = Image.Resampling[interpolation.upper()]
        expected = torchvision_resize_and_crop(Image.fromarray(pixels), resize_size, crop_size, method)
        np.testing.assert_array_equal(ours, expected)
        assert ours.flags.writeable


@pytest.mark.parametrize("shape", [(1, 40000), (40000, 3), (3, 12000)])
def test_long_strips_are_resized_inside_the_crop(shape, monkeypatch):
    """The whole of the first would be resized to 10 million by 256 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    if shape[0] * shape[1] == 36000:
        expected = decode.resize_and_crop(pixels, resize_size=24, crop_size=20)
        monkeypatch.setattr(decode, "MAX_PIXELS", 1)
        ours = decode.resize_and_crop(pixels, resize_size=24, crop_size=20)
        np.testing.assert_allclose(ours.astype(int), expected, atol=1)
    else:
        assert decode.resize_and_crop(pixels).shape == (224, 224, 3)


def test_resize_refuses_unknown_filters(photograph):
    with pytest.raises(InputError, match="interpolation='nearest' is not one of bilinear, bicubic"):
        decode.resize_and_crop(photograph, interpolation="nearest")


def test_canvas_is_pillows(photograph):
    for size in (16, 64, 200):
        expected = Image.fromarray(photograph).resize((size, size), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(decode.canvas(photograph, size=size), expected)


def tiff(values, bits, photometric=1, big_endian=False):
    """A minimal grey TIFF, of the kinds that Pillow does not write."""
    order = ">" if big_endian else "<"
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, values.nbytes))
    body = values.tobytes()
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    start = b"MM\0*" if big_endian else b"II*\0"
    return (
        start
        + struct.pack(order + "I", 8 + len(body))
        + body
        + struct.pack(order + "H", len(tags))
        + entries
        + b"\0" * 4
    )
