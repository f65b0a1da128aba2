"""Batches: one order for any number of threads and hosts, resumption, padding, prefetching, closing, errors."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import numpy as np
import pytest

from jaxmodels import data
from jaxmodels.core import Batch, InputError
from jaxmodels.data import decode

PIL = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'jaxmodels[images]'")

NUM_IMAGES = 11


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Image i is of colour 20 i all over, and 30 + i wide by 40 high."""
    root = tmp_path_factory.mktemp("images")
    for index in range(NUM_IMAGES):
        path = root / ("a" if index < 6 else "b") / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.new("RGB", (30 + index, 40), (20 * index,) * 3).save(path)
    return data.scan(root)


def epoch(images, **options):
    options = {"batch_size": 4, "image_size": 8, "workers": 2, **options}
    return [jax.tree.map(np.asarray, batch) for batch in data.batches(images, **options)]


def indices(batches):
    """Which images the rows are, by their colour."""
    return np.concatenate([batch.inputs[:, 0, 0, 0].astype(int) // 20 for batch in batches])


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jaxmodels")]


def test_order_is_a_permutation_keyed_on_seed_and_epoch():
    base = data.order(1000, seed=1, epoch=2)
    assert sorted(base.tolist()) == list(range(1000))
    assert base.tolist() == data.order(1000, seed=1, epoch=2).tolist()
    others = [data.order(1000, seed=seed, epoch=epoch) for seed, epoch in ((2, 1), (1, 3), (0, 2))]
    # Unrelated permutations agree in one place on average.
    assert all((base == other).sum() < 10 for other in others)
    assert data.order(5, seed=0, epoch=0, shuffle=False).tolist() == [0, 1, 2, 3, 4]


def test_order_never_changes():
    """A run must resume on another machine, so these are written down."""
    assert data.order(8, seed=0, epoch=0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert data.order(8, seed=3, epoch=7).tolist() == [5, 0, 6, 7, 4, 2, 3, 1]


def test_every_place_is_equally_likely():
    places = np.array([data.order(6, seed=0, epoch=epoch) for epoch in range(3000)])
    counts = np.array([np.bincount(column, minlength=6) for column in places.T])
    chi_squared = ((counts - 500) ** 2 / 500).sum()
    assert chi_squared < 60  # 25 degrees of freedom: exceeded once in 10,000


@pytest.mark.parametrize("workers", [1, 3, 16])
@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_pixels_and_order_do_not_depend_on_threads(images, workers, prefetch):
    assert_equal(epoch(images, workers=workers, prefetch=prefetch), epoch(images, workers=2))


def test_batches_are_those_of_the_order(images):
    batches = epoch(images, seed=5, epoch=3)
    assert indices(batches)[:NUM_IMAGES].tolist() == data.order(NUM_IMAGES, seed=5, epoch=3).tolist()
    for batch in batches:
        assert batch.inputs.shape == (4, 8, 8, 3)
        assert batch.inputs.dtype == np.uint8
        assert batch.targets.dtype == np.int32
        assert batch.weights.dtype == np.float32
        assert_equal(batch.targets, images.labels[indices([batch])])


def test_the_last_batch_is_filled_up_with_weight_0(images):
    batches = epoch(images)
    assert len(batches) == data.steps_per_epoch(NUM_IMAGES, 4) == 3
    assert np.concatenate([batch.weights for batch in batches]).tolist() == [1.0] * 11 + [0.0]
    assert indices(batches)[11] == indices(batches)[0]


def test_evaluation_keeps_the_order_and_fills_up(images):
    batches = epoch(images, shuffle=False, batch_size=16)
    assert len(batches) == 1
    assert indices(batches)[:11].tolist() == list(range(11))
    assert batches[0].weights.sum() == 11


def test_a_run_resumes_in_mid_epoch(images):
    whole = epoch(images, seed=2, epoch=1)
    for step in range(4):
        assert_equal(epoch(images, seed=2, epoch=1, step=step), whole[step:])


@pytest.mark.parametrize("process_count", [2, 4])
def test_hosts_get_contiguous_slices_of_each_batch(images, process_count):
    whole = epoch(images)
    hosts = [epoch(images, process_index=i, process_count=process_count) for i in range(process_count)]
    for step, batch in enumerate(whole):
        parts = [host[step] for host in hosts]
        assert_equal(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), batch)


def test_canvas_keeps_the_whole_image_and_its_aspect(images):
    batches = epoch(images, mode="canvas", resize_size=12, shuffle=False)
    for batch in batches:
        assert isinstance(batch.inputs, data.Canvas)
        assert batch.inputs.pixels.shape == (4, 12, 12, 3)
        assert batch.inputs.aspect.shape == (4,)
    aspect = np.concatenate([batch.inputs.aspect for batch in batches])[:NUM_IMAGES]
    np.testing.assert_allclose(aspect, (30 + np.arange(NUM_IMAGES)) / 40)


def test_pixels_are_those_of_decode(data_dir):
    train = data.scan(data_dir / "images" / "hymenoptera" / "val")
    (crop,) = data.batches(train._replace(paths=train.paths[:4], labels=train.labels[:4]), batch_size=4, shuffle=False)
    canvas = next(data.batches(train, batch_size=4, shuffle=False, mode="canvas"))
    assert canvas.inputs.pixels.shape == (4, 256, 256, 3)
    for row, path in enumerate(train.paths[:4]):
        pixels = decode.decode(path)
        np.testing.assert_array_equal(crop.inputs[row], decode.resize_and_crop(pixels))
        np.testing.assert_array_equal(canvas.inputs.pixels[row], decode.canvas(pixels, size=256))
        np.testing.assert_allclose(canvas.inputs.aspect[row], pixels.shape[1] / pixels.shape[0], rtol=1e-6)


def test_batches_are_on_the_device(images):
    batch = next(data.batches(images, batch_size=4, image_size=8))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(batch))


def test_put_decides_where_batches_go(images):
    devices = np.array(jax.devices()[:4])
    mesh = jax.sharding.Mesh(devices, ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    options = {"batch_size": 4, "image_size": 8}
    batch = next(data.batches(images, put=lambda batch: jax.device_put(batch, sharding), **options))
    assert batch.inputs.sharding.is_equivalent_to(sharding, 4)
    assert_equal(jax.tree.map(np.asarray, batch), epoch(images)[0])


def test_all_batches_make_one_trace(images):
    traces = []

    @jax.jit
    def step(batch: Batch):
        traces.append(1)
        return batch.inputs.mean() * batch.weights.sum()

    for number in range(2):
        for batch in data.batches(images, batch_size=4, image_size=8, epoch=number):
            step(batch)
    assert len(traces) == 1


def test_prefetch_decodes_ahead_and_no_further(images, monkeypatch):
    started, real = [], decode.decode
    monkeypatch.setattr(decode, "decode", lambda path, **options: started.append(path) or real(path, **options))
    stream = data.batches(images, batch_size=2, image_size=8, prefetch=2, workers=2)
    assert started == []
    next(stream)
    deadline = time.monotonic() + 10
    while len(started) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(started) == 6
    stream.close()


def test_closing_early_joins_all_threads(images):
    before = threading.active_count()
    for _ in range(5):
        for _batch in data.batches(images, batch_size=2, image_size=8, workers=4, prefetch=3):
            break
        gc.collect()
        assert threads() == []
    assert threading.active_count() <= before


def test_closing_does_not_wait_for_what_has_not_begun(images, monkeypatch):
    """One thread holds the third image when the stream is closed; the seven behind it are never opened."""
    started, release, real = [], threading.Event(), decode.decode

    def hold(path, **options):
        started.append(path)
        if len(started) > 2:
            release.wait(timeout=30)
        return real(path, **options)

    monkeypatch.setattr(decode, "decode", hold)
    stream = data.batches(images, batch_size=2, image_size=8, workers=1, prefetch=4)
    next(stream)
    timer = threading.Timer(1.0, release.set)
    timer.start()
    stream.close()
    timer.join()
    assert len(started) <= 3
    assert threads() == []


def test_an_exception_in_the_loop_joins_all_threads(images):
    def train():
        for _ in data.batches(images, batch_size=2, image_size=8):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    gc.collect()
    assert threads() == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_interrupting_a_program_ends_it(images):
    """A real SIGINT to a real program, in the middle of an epoch that would never end."""
    root = os.path.dirname(os.path.dirname(images.paths[0]))
    program = textwrap.dedent(
        f"""
        import itertools, signal
        from jaxmodels import data
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
        images = data.scan({root!r})
        for epoch in itertools.count():
            for batch in data.batches(images, batch_size=2, image_size=8, epoch=epoch, workers=4):
                print("batch", flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "batch\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors


def test_a_bad_file_surfaces_at_its_batch_by_name(images, tmp_path):
    bad = tmp_path / "bad one.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    paths = (*images.paths[:6], str(bad), *images.paths[7:])
    stream = data.batches(images._replace(paths=paths), batch_size=2, image_size=8, shuffle=False)
    for _ in range(3):
        next(stream)
    with pytest.raises(data.DecodeError, match=r"bad one\.png' is a PNG file that is truncated"):
        next(stream)
    assert threads() == []


def test_a_fault_of_ours_surfaces_too(images, monkeypatch):
    monkeypatch.setattr(decode, "resize_and_crop", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(data.batches(images, batch_size=2))
    assert threads() == []


def test_the_limit_on_pixels_is_passed_on(images):
    with pytest.raises(data.DecodeError, match="more than max_pixels=1000"):
        next(data.batches(images, batch_size=2, max_pixels=1000))


@pytest.mark.parametrize("mode", ["crop", "canvas"])
def test_cache_gives_the_same_pixels_and_reads_files_once(images, monkeypatch, mode):
    decoded, real = [], decode.decode
    monkeypatch.setattr(decode, "decode", lambda path, **options: decoded.append(path) or real(path, **options))
    cache = data.PixelCache(max_bytes=2**20)
    for number in range(3):
        plain, cached = (epoch(images, epoch=number, mode=mode, cache=each) for each in (None, cache))
        assert_equal(plain, cached)
    # Three epochs of 12 rows without the cache, one of 11 images (and perhaps the filler, twice at once) with it.
    assert 36 + 11 <= len(decoded) <= 36 + 12


def test_cache_keeps_to_its_limit(images):
    size = 8 * 8 * 3
    cache = data.PixelCache(max_bytes=5 * size + 1)
    first, second = (epoch(images, cache=cache) for _ in range(2))
    assert_equal(first, second)
    assert cache.num_bytes == 5 * size
    # Another size is another picture.
    assert epoch(images, cache=cache, image_size=4)[0].inputs.shape == (4, 4, 4, 3)


def test_cached_pixels_are_not_shared_with_batches(images):
    cache = data.PixelCache(max_bytes=2**20)
    options = {"cache": cache, "put": lambda batch: batch}
    first = next(data.batches(images, batch_size=4, image_size=8, **options))
    expected = first.inputs.copy()
    first.inputs[:] = 0
    assert_equal(next(data.batches(images, batch_size=4, image_size=8, **options)).inputs, expected)


def test_unusable_arguments_are_refused_before_the_first_batch(images):
    def refuses(match, **options):
        with pytest.raises(InputError, match=match):
            data.batches(images, **{"batch_size": 4, **options})

    refuses("batch_size=12 is more than the 11 images: lower it", batch_size=12)
    refuses("batch_size: got 0, needs an integer of at least 1", batch_size=0)
    refuses("batch_size: got 2.0, needs an integer", batch_size=2.0)
    refuses("batch_size=4 does not divide among process_count=3 hosts", process_count=3)
    refuses("process_index=2 is not in 0 to 1", process_index=2, process_count=2)
    refuses("step=4 is not in 0 to 3", step=4)
    refuses("seed=-1 is negative", seed=-1)
    refuses("epoch=-1 is negative", epoch=-1)
    refuses("mode='crops' is not 'crop' or 'canvas'", mode="crops")
    refuses("interpolation='nearest' is not one of", interpolation="nearest")
    refuses("workers: got 0, needs an integer of at least 1", workers=0)
    refuses("prefetch: got -1, needs an integer of at least 0", prefetch=-1)
    refuses("image_size: got 0, needs an integer", image_size=0)
    empty = images._replace(paths=(), labels=images.labels[:0])
    with pytest.raises(InputError, match="there are no images"):
        data.batches(empty, batch_size=1, shuffle=False)


def arrays(n=10):
    generator = np.random.default_rng(0)
    return generator.normal(size=(n, 3)).astype(np.float32), np.arange(n, dtype=np.int32)


def test_arrays_go_in_the_order_of_images(images):
    inputs, targets = arrays(NUM_IMAGES)
    batches = list(data.array_batches(inputs, targets, batch_size=4, seed=5, epoch=3))
    rows = np.concatenate([batch.targets for batch in batches])
    assert rows.tolist() == indices(epoch(images, seed=5, epoch=3)).tolist()
    for batch in batches:
        assert_equal(batch.inputs, inputs[np.asarray(batch.targets)])
    assert np.concatenate([batch.weights for batch in batches]).tolist() == [1.0] * 11 + [0.0]


def test_arrays_resume_and_are_sliced_among_hosts():
    inputs, targets = arrays()
    options = {"batch_size": 4, "seed": 1}
    whole = list(data.array_batches(inputs, targets, **options))
    assert_equal(list(data.array_batches(inputs, targets, step=2, **options)), whole[2:])
    halves = [list(data.array_batches(inputs, targets, process_index=i, process_count=2, **options)) for i in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert_equal(batch, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))


def test_arrays_keep_their_weights_and_padding_has_none():
    inputs, targets = arrays(3)
    weights = np.array([0.5, 2.0, 0.0])
    (batch,) = data.array_batches(inputs, targets, batch_size=5, weights=weights, shuffle=False)
    assert batch.weights.tolist() == [0.5, 2.0, 0.0, 0.0, 0.0]


def test_array_inputs_may_be_trees_and_targets_none():
    inputs, _ = arrays(4)
    batch = next(data.array_batches({"a": inputs, "b": inputs[:, 0]}, None, batch_size=2, shuffle=False))
    assert batch.targets is None
    assert_equal(batch.inputs, {"a": inputs[:2], "b": inputs[:2, 0]})


def test_float64_arrays_stay_so(x64):
    batch = next(data.array_batches(np.ones((2, 2)), np.ones(2), batch_size=2, weights=np.ones(2)))
    assert [leaf.dtype for leaf in jax.tree.leaves(batch)] == [np.float64] * 3


def test_arrays_of_different_lengths_are_refused():
    inputs, targets = arrays()
    with pytest.raises(InputError, match=r"their shapes are \(10, 3\), \(9,\)"):
        data.array_batches(inputs, targets[:9], batch_size=2)
    with pytest.raises(InputError, match="batch_size=11 is more than the 10 rows"):
        data.array_batches(inputs, targets, batch_size=11)


def test_batches_do_not_share_memory_with_arrays():
    inputs, targets = arrays(4)
    expected = inputs.copy()
    batch = next(data.array_batches(inputs, targets, batch_size=4, shuffle=False))
    inputs[:] = 0
    assert_equal(batch.inputs, expected)


def test_labels_are_checked_on_the_host():
    data.check_labels(np.array([0, 1, 2]), 3)
    for labels, message in (
        ([0, 3, 1], r"labels\[1\] is 3, outside 0 to 2 \(num_classes=3\)"),
        ([0, 1, -1], r"labels\[2\] is -1"),
        ([[0, 1], [2, 7]], r"labels\[1, 1\] is 7"),
        ([0.0, 1.0], "labels have dtype float64: give integers from 0 to 2"),
    ):
        with pytest.raises(InputError, match=message):
            data.check_labels(np.array(labels), 3)


def test_default_workers_are_the_processors_of_this_process():
    assert 1 <= decode.default_workers() <= os.cpu_count()
