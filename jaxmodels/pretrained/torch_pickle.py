"""Read the tensors of a torch file (``.pth``, ``.pt``) without torch, and without running what the file says.

Such a file is a pickle, and a pickle is a program. This reader's pickle machine knows tensors, their storages and plain
containers; any other name in the file (``os.system``, say) is an error before anything is called. Both formats are
read: the zip archive (torch 1.6 and later) and the stream of pickles before it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxmodels.core import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# torch's name of a storage's class, or of a dtype, and NumPy's of the elements; None: bytes, the tensor says of what.
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
    *("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
)
# What the standard library raises on broken bytes.
_BROKEN = (
    *(zipfile.BadZipFile, pickle.UnpicklingError, struct.error, EOFError, MemoryError, RuntimeError, ArithmeticError),
    *(AttributeError, LookupError, TypeError, ValueError),
)
_NOT_TORCH = {
    b"<": "is a web page, not weights; download the file itself",
    b"version https://git-lfs": "is a pointer of git-lfs, not the file that it points to; run git lfs pull",
    b"\x89HDF": "is an HDF5 file, Keras's perhaps, not torch's; give a .pth or .pt file",
}


def read(path: str | os.PathLike) -> Any:
    """The object that ``torch.save`` wrote, tensors as NumPy arrays.

    Args:
      path: the file.

    Returns:
      dicts, lists, tuples, numbers and strings as they were saved; tensors as read-only arrays (bfloat16 and float8 by
      ``ml_dtypes``), which share memory where they shared a storage.

    Raises:
      InputError: names the file, and what it is or holds that cannot be read.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file, _guarded():
            return _read(file, os.path.getsize(path))
    except OSError as error:
        raise InputError(f"weights: {path!r} cannot be read ({error.strerror or error}); check the path") from error
    except _Refused as error:
        raise InputError(f"weights: {path!r} {error}") from error


def tensors(content: Any) -> dict[str, np.ndarray]:
    """Every array in nested dicts, named by its keys joined with dots.

    >>> tensors({"epoch": 3, "state_dict": {"fc.bias": np.zeros(2)}})
    {'state_dict.fc.bias': array([0., 0.])}
    """
    return dict(_walk(content, "", set()))


def _walk(content: Any, name: str, seen: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(content, np.ndarray):
        yield name, content
    # A dict met again adds nothing, and nested repeats could name more tensors than fit in memory.
    elif isinstance(content, dict) and id(content) not in seen:
        seen.add(id(content))
        for key, value in content.items():
            yield from _walk(value, f"{name}.{key}" if name else str(key), seen)


class _Refused(Exception):
    """Why a file is not read, without its name."""


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise _Refused(f"is truncated or corrupt ({reason}); download it again") from error


def _read(file: BinaryIO, file_size: int) -> Any:
    start = file.read(64)
    if not start:
        raise _Refused("is empty (zero bytes); download it again")
    for magic, reason in _NOT_TORCH.items():
        if start.lstrip().startswith(magic):
            raise _Refused(reason)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return _read_zip(archive, file_size)
    if start.startswith(b"PK"):
        raise _Refused("is truncated: the end of its zip archive is missing; download it again")
    if not start.startswith(b"\x80"):
        raise _Refused(f"is not a torch file: it starts with {start[:8]!r}; give a .pth or .pt file")
    file.seek(0)
    return _read_legacy(file)


class _Storage(NamedTuple):
    """A name for bytes that are elsewhere in the file."""

    key: str
    dtype: np.dtype
    count: int


class _Tensor(NamedTuple):
    """A view of a storage; becomes an array when the pickle has been read."""

    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    flips: tuple[str, ...]
    """Signs that torch left to be changed when read: "neg", "conj"."""


def _rebuild_tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None) -> _Tensor:
    flips = tuple(sorted(name for name, on in (metadata or {}).items() if on))
    return _Tensor(storage, storage.dtype, offset, tuple(shape), tuple(strides), flips)


def _rebuild_typed_tensor(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None) -> _Tensor:
    return _rebuild_tensor(storage, offset, shape, strides, metadata=metadata)._replace(dtype=_dtype(dtype))


def _rebuild_parameter(tensor, requires_grad=False, hooks=None) -> _Tensor:
    return tensor


_ADMITTED: dict[tuple[str, str], Callable] = {
    ("collections", "Counter"): Counter,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed_tensor,
}


class _Unpickler(pickle.Unpickler):
    """A pickle machine that knows the names above and those of storages and dtypes, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module in ("torch", "torch.storage") and name in _STORAGES) or (module == "torch" and name in _DTYPES):
            return name
        if (module, name) not in _ADMITTED:
            raise _Refused(
                f"is not tensors alone: it asks for {module}.{name}, which this reader never runs; "
                "save the model's state_dict() by itself"
            )
        # A pickle may set attributes of what it is given, so it gets a function of its own.
        return lambda *args: _ADMITTED[module, name](*args)

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count = pid[:5]
        if kind != "storage" or storage not in _STORAGES or not isinstance(count, int):
            raise _Refused(f"holds a storage of an unknown kind: {kind!r}, {storage!r}; save plain tensors")
        if len(pid) > 5 and pid[5] is not None:
            raise _Refused("holds a view of a storage, as torch 0.1 wrote them; save it again with a newer torch")
        return _Storage(str(key), _dtype(_STORAGES[storage]), count)


def _dtype(name: str) -> np.dtype:
    if name not in _DTYPES:
        raise _Refused(f"is corrupt: {name!r} is no dtype; download it again")
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name).newbyteorder("<")


def _read_zip(archive: zipfile.ZipFile, file_size: int) -> Any:
    names = archive.namelist()
    root = next((name[: -len("data.pkl")] for name in names if name.endswith("data.pkl")), None)
    if root is None:
        raise _Refused(f"is a zip archive without data.pkl, so not torch's; it holds {', '.join(names[:3])}")
    if f"{root}constants.pkl" in names:
        raise _Refused("is a TorchScript program; save the model's state_dict() instead")
    # torch stores without compression; a small file that unpacks to a large one was made to harm.
    if sum(entry.file_size for entry in archive.infolist()) > file_size:
        raise _Refused("unpacks to more than its own size, which torch's files never do; download it again")
    big = f"{root}byteorder" in names and archive.read(f"{root}byteorder").strip() == b"big"
    content = _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl"))).load()
    return _Arrays(lambda key: archive.read(f"{root}data/{key}"), big).convert(content)


def _read_legacy(file: BinaryIO) -> Any:
    """Five pickles (magic number, protocol, system, content, storage keys), then every storage: count, elements."""
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise _Refused("is a pickle, but not torch's; give what torch.save wrote")
    protocol, _ = (_Unpickler(file).load() for _ in range(2))
    if protocol != _LEGACY_PROTOCOL:
        raise _Refused(f"is of torch's legacy protocol {protocol}, not {_LEGACY_PROTOCOL}; save it again")
    storages = _Listing(file)
    content, keys = storages.load(), _Unpickler(file).load()
    raw = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if count != storages.found[key].count:
            raise _Refused("is corrupt: a storage's size differs from what its tensors say; download it again")
        raw[key] = _take(file, count * storages.found[key].dtype.itemsize)
    # Little-endian whichever machine wrote it, unlike the zip format.
    return _Arrays(raw.__getitem__, False).convert(content)


class _Listing(_Unpickler):
    """Keeps the storages met, which the legacy format stores with their counts and without their dtypes."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.found: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        storage = super().persistent_load(pid)
        return self.found.setdefault(storage.key, storage)


def _take(file: BinaryIO, size: int) -> bytes:
    left = os.fstat(file.fileno()).st_size - file.tell()
    if not 0 <= size <= left:
        raise _Refused(f"is truncated: {left} bytes are left where a tensor has {size}; download it again")
    return file.read(size)


class _Arrays:
    """Turns tensors into arrays: ``read(key)`` gives a storage's bytes, ``big`` says in which order."""

    def __init__(self, read: Callable[[str], bytes], big: bool):
        self.read, self.big = functools.cache(read), big
        self.converted: dict[int, Any] = {}

    def convert(self, content: Any) -> Any:
        """``content`` with arrays for tensors, each object once: nested repeats would take for ever."""
        if id(content) not in self.converted:
            self.converted[id(content)] = self._convert(content)
        return self.converted[id(content)]

    def _convert(self, content: Any) -> Any:
        if isinstance(content, _Tensor):
            return self.view(content)
        if isinstance(content, _Storage):
            return self.elements(content.key, content.dtype)
        if isinstance(content, dict):
            return {key: self.convert(value) for key, value in content.items()}
        if isinstance(content, list | tuple):
            return type(content)(self.convert(value) for value in content)
        return content

    def view(self, tensor: _Tensor) -> np.ndarray:
        array = self.elements(tensor.storage.key, tensor.dtype, tensor.flips)
        numbers = (tensor.offset, *tensor.shape, *tensor.strides)
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise _Refused(
                f"is corrupt: a tensor has shape {tensor.shape}, strides {tensor.strides}; download it again"
            )
        steps = zip(tensor.shape, tensor.strides, strict=True)
        end = tensor.offset + 1 + sum((size - 1) * stride for size, stride in steps)
        if math.prod(tensor.shape) == 0:
            return np.zeros(tensor.shape, array.dtype)
        if end > len(array):
            raise _Refused(
                f"is truncated or corrupt: a tensor ends at {end} of {len(array)} elements; download it again"
            )
        # Not `as_strided`, which knows no float8.
        offset, *strides = (number * array.itemsize for number in (tensor.offset, *tensor.strides))
        return np.ndarray(tensor.shape, array.dtype, array.view(np.uint8), offset, strides)

    def elements(self, key: str, dtype: np.dtype, flips: tuple[str, ...] = ()) -> np.ndarray:
        raw = self.read(key)
        array = np.frombuffer(raw, dtype, len(raw) // dtype.itemsize)
        array = array.byteswap() if self.big else array
        for flip in flips:
            if flip not in ("neg", "conj"):
                raise _Refused(f"holds a tensor with the unknown attribute {flip!r}; save plain tensors")
            array = -array if flip == "neg" else array.conj()
        return array
