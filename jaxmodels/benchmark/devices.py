"""What a device can do at most: flops a second by dtype, bytes a second, bytes of memory.

    mfu = flops / (seconds * peak)                                                  (model flops utilisation)

The peaks of accelerators are those that their makers publish, without sparsity and for the form with the fastest
memory link (SXM); those of a CPU are measured in place, by one large product and one triad ``a = b + s c``.

Sources: the maker's datasheet, named in each row; McCalpin (1995), Memory bandwidth and machine balance in current high
performance computers, for the triad; Chowdhery et al. (2022), PaLM, appendix B, for the utilisation.
"""

from __future__ import annotations

import functools
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodels.core import InputError


class Device(NamedTuple):
    """The peaks of one device, as jax counts devices (half a chip on TPU v2 and v3)."""

    name: str
    kind: str
    """Words in jax's ``device_kind``, lower case: a regular expression."""
    rates: dict[str, float]
    """Flops a second by dtype. "tfloat32" is float32 at default precision (TF32 on a GPU that has it, one pass of
    bfloat16 on a TPU), "float32" at the highest."""
    bandwidth: float
    """Bytes a second to and from memory."""
    memory: float
    """Bytes."""
    source: str

    def rate(self, dtype: str) -> float:
        """Peak flops a second of products of ``dtype``; of one that is not in the table, that of float32.

        >>> find("h100").rate("bfloat16") / find("v100").rate("bfloat16") > 20       # which has no bfloat16
        True
        """
        return self.rates.get(dtype, self.rates["float32"])


_DTYPES = ("bfloat16", "float16", "tfloat32", "float32", "float64")


def _gpu(name: str, kind: str, rates: tuple[float, ...], bandwidth: float, memory: float, source: str) -> Device:
    """Rates in Tflop/s, in the order of ``_DTYPES``, bandwidth in GB/s, memory in GB."""
    by_dtype = {dtype: 1e12 * rate for dtype, rate in zip(_DTYPES, rates, strict=False)}
    return Device(name, kind, by_dtype, 1e9 * bandwidth, 1e9 * memory, source)


def _tpu(name: str, kind: str, rate: float, bandwidth: float, memory: float, cores: int = 1) -> Device:
    """A chip that is ``cores`` devices, memory in GiB; float32 takes six passes of bfloat16, float64 has no rate."""
    rates = (rate / cores, rate / cores, rate / cores, rate / cores / 6)
    source = f"Google Cloud TPU documentation, {name}"
    return _gpu(name, kind, rates, bandwidth / cores, 1.073741824 * memory / cores, source)


# The first whose words are in jax's name is it: "tpu v5 lite" before "tpu v5".
_DEVICES = (
    _gpu("b200", "b200", (2250, 2250, 1125, 75, 37), 7700, 180, "NVIDIA HGX B200 datasheet"),
    _gpu("h200", "h200", (989.4, 989.4, 494.7, 66.9, 66.9), 4800, 141, "NVIDIA H200 Tensor Core GPU datasheet"),
    _gpu("h100-pcie", "h100 pcie", (756, 756, 378, 51, 51), 2000, 80, "NVIDIA H100 Tensor Core GPU datasheet"),
    _gpu("h100", "h100", (989.4, 989.4, 494.7, 66.9, 66.9), 3350, 80, "NVIDIA H100 Tensor Core GPU datasheet"),
    _gpu("a100-40gb", "a100-.*40gb", (312, 312, 156, 19.5, 19.5), 1555, 40, "NVIDIA A100 datasheet"),
    _gpu("a100", "a100", (312, 312, 156, 19.5, 19.5), 2039, 80, "NVIDIA A100 datasheet"),
    _gpu("l4", "l4", (121, 121, 60, 30.3, 0.47), 300, 24, "NVIDIA L4 datasheet, halved: it counts sparsity"),
    _gpu("t4", "t4", (8.1, 65, 8.1, 8.1, 0.25), 300, 16, "NVIDIA T4 datasheet"),
    _gpu("v100", "v100", (15.7, 125, 15.7, 15.7, 7.8), 900, 32, "NVIDIA V100 datasheet"),
    _gpu("mi300x", "mi300x", (1307.4, 1307.4, 653.7, 163.4, 163.4), 5300, 192, "AMD Instinct MI300X data sheet"),
    _tpu("v2", "tpu v2", 46, 700, 16, cores=2),
    _tpu("v3", "tpu v3", 123, 900, 32, cores=2),
    _tpu("v4", "tpu v4", 275, 1228, 32),
    _tpu("v5e", "tpu v5 lite|tpu v5e", 197, 819, 16),
    _tpu("v5p", "tpu v5p?", 459, 2765, 95),
    _tpu("v6e", "tpu v6 lite|tpu v6e", 918, 1640, 32),
)


def find(name: str | None = None) -> Device:
    """The peaks of a device.

    Args:
      name: "h200", "v5e", ..., "cpu", or what jax calls it (``device_kind``). Default: jax's first device.

    Raises:
      InputError: no such device is known; lists those that are.

    >>> find("NVIDIA H200").bandwidth, find("TPU v5 lite").name
    (4800000000000.0, 'v5e')
    """
    asked = (name or jax.devices()[0].device_kind).lower()
    if asked == "cpu":
        return cpu()
    named = [device for device in _DEVICES if device.name == asked]
    found = named or [device for device in _DEVICES if re.search(rf"\b({device.kind})\b", asked)]
    if not found:
        known = ", ".join(device.name for device in _DEVICES)
        raise InputError(f"device: the peaks of {asked!r} are not known, only those of cpu, {known}")
    return found[0]


@functools.cache
def cpu() -> Device:
    """This machine's peaks, on the threads that XLA has: measured once a process, in about two seconds."""
    rates = {dtype: _product_rate(dtype) for dtype in ("bfloat16", "float16", "float32", "float64")}
    rates["tfloat32"] = rates["float32"]
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Device("cpu", "cpu", rates, _triad_bandwidth(), memory, "measured in place")


def _product_rate(dtype: str, size: int = 1024) -> float:
    """Flops a second of the best of some products of two square matrices."""
    with jax.enable_x64(True):
        a, b = np.random.default_rng(0).normal(size=(2, size, size))
        a, b = (jax.device_put(each.astype(dtype), jax.devices("cpu")[0]) for each in (a, b))
        product = jax.jit(lambda a, b: jax.lax.dot(a, b, precision="highest"))
        return 2 * size**3 / _best_seconds(lambda: product(a, b).block_until_ready())


def _triad_bandwidth(size: int = 2**24) -> float:
    """Bytes a second of ``a = b + s c`` on arrays of 64 MiB: two read, one written."""
    b, c = jax.device_put(np.random.default_rng(0).random((2, size), np.float32), jax.devices("cpu")[0])
    triad = jax.jit(lambda b, c: b + 3 * c)
    return 3 * 4 * size / _best_seconds(lambda: triad(b, c).block_until_ready())


def _best_seconds(call: Callable[[], Any], rounds: int = 5) -> float:
    def seconds():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    call()
    return min(seconds() for _ in range(rounds))


def peak_memory() -> tuple[int, str]:
    """Most bytes in use since the process began, and of what: "device", or "process" where the device does not say.

    >>> size, of = peak_memory()
    >>> size > 2**20, of in ("device", "process")
    (True, True)
    """
    on_device = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    if any(on_device):
        return max(on_device), "device"
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"
