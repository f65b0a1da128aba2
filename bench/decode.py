"""How many photographs a second does one core decode, resize and crop, and how many come from a packed store?

    python bench/decode.py [folder of JPEGs] [--rounds 5]

One JSON line a candidate; those of a question take turns on one core. ``images_per_second`` is the median by the clock,
``images_per_cpu_second`` by the time that the core worked, whatever else the machine did meanwhile. Without a folder:
64 generated JPEGs of 500 x 375 pixels, quality 90.

* decode; decode, resize, crop; decode, canvas; verify: one photograph after another, by simplejpeg and by Pillow alone.
* batches of 256 crops of 224 pixels, from ``data.batches`` as a training loop gets them, but for the device: those of a
  packed store (4096 images in the page cache) on one core and on all, and those of its folder.

Last run, images per second of the core's time with Pillow 13.0.0 / simplejpeg 1.9.0, 128 photographs of about 500 x 375
pixels and 108 KB, Python 3.11.7, two virtual cores of an AMD EPYC that others were using: decode 417 / 569; decode,
resize, crop 235 / 258; decode, canvas 232 / 281; verify 751 / 964. Batches on one core: packed 37,807, folder 258; on
both, disturbed, packed 17,397, folder 230; packed was between 20,000 and 27,000 in most runs. libjpeg-turbo takes 1.7
of the 3.9 ms and Pillow's exact resize 1.8. Two quiet Xeon cores (Emerald Rapids), 64 generated JPEGs of 81 KB: decode
645 / 873; decode, resize, crop 325 / 374; decode, canvas 362 / 413; verify 1,060 / 1,269; batches on one core: packed
34,252, folder 371, on both 54,650 and 714.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from jaxmodels import benchmark, data
from jaxmodels.data import decode

IMAGE_SIZE, RESIZE_SIZE = 224, 256
BATCH_SIZE, NUM_PACKED = 256, 4096


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


def compare(question: str, candidates: dict[str, tuple[Callable[[], object], int]], rounds: int, **more) -> None:
    """Candidates: name -> (what is timed, images in it)."""
    cpu_seconds: dict[str, list[float]] = collections.defaultdict(list)

    def counted(name: str, call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            call()
            cpu_seconds[name].append(time.process_time() - start)

        return run

    calls = {name: counted(name, call) for name, (call, _) in candidates.items()}
    timed = benchmark.take_turns(calls, rounds=rounds)
    for name, (_, count) in candidates.items():
        line = {
            "question": question,
            "candidate": name,
            "images_per_second": round(count / timed[name].median),
            "images_per_cpu_second": round(count / np.median(cpu_seconds[name][-rounds:])),
            "rounds": rounds,
        }
        print(json.dumps(line | more | benchmark.around()), flush=True)


def one_after_another(files: list[bytes], rounds: int) -> None:
    import PIL

    fast = decode._simplejpeg()
    decoders = {"Pillow": None} | ({"simplejpeg": fast} if fast else {})
    versions = {"pillow": PIL.__version__, "simplejpeg": getattr(fast, "__version__", None)}

    def through(work: Callable[[bytes], object], decoder: object) -> Callable[[], None]:
        def run() -> None:
            decode._simplejpeg = lambda: decoder
            for file in files:
                work(file)

        return run

    for name, work in WORK.items():
        candidates = {decoder: (through(work, module), len(files)) for decoder, module in decoders.items()}
        compare(name, candidates, rounds, mean_bytes=round(sum(map(len, files)) / len(files)), codecs=versions)
    decode._simplejpeg = lambda: fast


def an_epoch(images: data.ImageFolder, workers: int) -> Callable[[], None]:
    numbers: Iterator[int] = iter(range(10**6))

    def run() -> None:
        options = {"workers": workers, "put": lambda batch: batch}
        for _ in data.batches(images, batch_size=BATCH_SIZE, epoch=next(numbers), **options):
            pass

    return run


def batches(files: list[bytes], folder: pathlib.Path, cores: set[int], rounds: int) -> None:
    """Of the same photographs, many times over in the store."""
    for number in range(NUM_PACKED):
        path = folder / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[number % len(files)])
    store = data.pack(folder / "photos", folder / "packed", modes=("crop",))[""]
    photographs = data.scan(folder / "photos")
    few = photographs._replace(paths=photographs.paths[:BATCH_SIZE], labels=photographs.labels[:BATCH_SIZE])
    for allowed in ({max(cores)}, cores) if len(cores) > 1 else (cores,):
        pin(allowed)
        candidates = {
            "packed": (an_epoch(store, len(allowed)), NUM_PACKED),
            "folder": (an_epoch(few, len(allowed)), BATCH_SIZE),
        }
        compare(f"batches, {len(allowed)} cores", candidates, rounds)


def pin(cores: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.folder:
        files = [path.read_bytes() for path in sorted(options.folder.rglob("*.jp*g"))[:128]]
    else:
        files = generated()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    pin({max(cores)})
    one_after_another(files, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        pin(cores)
        batches(files, pathlib.Path(folder), cores, options.rounds)


if __name__ == "__main__":
    main()
