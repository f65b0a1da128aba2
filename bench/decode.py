"""How many photographs a second does one core decode, resize and crop, with simplejpeg and with Pillow alone?

    python bench/decode.py [folder of JPEGs] [--seconds 1]

One JSON line a question, the two decoders interleaved and the best of the rounds kept. Without a folder: 64 generated
JPEGs of 500 x 375 pixels, quality 90. ``threads`` is how many decoded at once; a second of CPU
time is a second of one core, whatever else the machine does meanwhile.

Last run, images per CPU second with Pillow 13.0.0 / simplejpeg 1.9.0, 128 photographs of about 500 x 375 pixels and
108 KB, Python 3.11.7, AMD EPYC, a machine of two cores that others were using: decode 491 / 673; decode, resize, crop
267 / 312; decode, canvas 288 / 352; verify 912 / 1067. Scaling over threads could not be measured on it.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxmodels.data import decode

ROUNDS = 5
IMAGE_SIZE, RESIZE_SIZE = 224, 256


def generated(count: int = 64) -> list[bytes]:
    """Clouds of noise at several scales: about as hard to decode as a photograph."""
    from PIL import Image

    generator, files = np.random.default_rng(0), []
    for _ in range(count):
        pixels = np.zeros((375, 500, 3))
        for side in (4, 16, 64, 256):
            layer = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize((500, 375))
            pixels += np.asarray(layer) / 4
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def crop(data: bytes) -> None:
    decode.resize_and_crop(decode.decode(data), resize_size=RESIZE_SIZE, crop_size=IMAGE_SIZE)


def canvas(data: bytes) -> None:
    decode.canvas(decode.decode(data), size=RESIZE_SIZE)


WORK: dict[str, Callable[[bytes], object]] = {
    "decode": decode.decode,
    "decode, resize, crop": crop,
    "decode, canvas": canvas,
    "verify": decode.verify,
}


def rates(work: Callable[[bytes], object], files: list[bytes], threads: int, seconds: float) -> np.ndarray:
    """Images per second of the clock, and per second of CPU time."""
    with ThreadPoolExecutor(threads) as pool:
        start, start_cpu, count = time.perf_counter(), time.process_time(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            count += len(list(pool.map(work, files)))
        return count / np.array([elapsed, time.process_time() - start_cpu])


def use(simplejpeg) -> None:
    decode._simplejpeg = lambda: simplejpeg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement, of which there are 80")
    options = parser.parse_args()

    import PIL

    if options.folder:
        files = [path.read_bytes() for path in sorted(options.folder.rglob("*.jp*g"))[:128]]
    else:
        files = generated()
    fast, cores = decode._simplejpeg(), decode.default_workers()
    decoders = {"Pillow": None} | ({"simplejpeg": fast} if fast else {})
    versions = {"python": platform.python_version(), "pillow": PIL.__version__, "numpy": np.__version__}
    versions["simplejpeg"] = getattr(fast, "__version__", None)
    for name, work in WORK.items():
        for threads in sorted({1, cores}):
            best = dict.fromkeys(decoders, np.zeros(2))
            for _ in range(ROUNDS):
                for decoder, module in decoders.items():
                    use(module)
                    best[decoder] = np.maximum(best[decoder], rates(work, files, threads, options.seconds))
            for decoder, (per_second, per_cpu_second) in best.items():
                result = {
                    "work": name,
                    "decoder": decoder,
                    "threads": threads,
                    "images_per_second": round(per_second),
                    "images_per_cpu_second": round(per_cpu_second),
                    "mean_bytes": round(sum(map(len, files)) / len(files)),
                    "cores": cores,
                    **versions,
                }
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
