"""Checkpoints: a pytree of arrays in a folder, written whole or not at all, and verified when read.

Orbax writes (atomically: a killed process leaves the old checkpoint); beside the arrays stands a manifest with a
sha256, a shape and a dtype for each leaf, because Orbax by itself restores a flipped bit and casts a dtype in silence.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.core import InputError, PyTree

_MANIFEST = "manifest.json"
_ARRAYS = "arrays"


def save(path: str | pathlib.Path, tree: PyTree, *, metadata: dict[str, Any] | None = None) -> None:
    """Write ``tree`` and ``metadata`` (JSON) to the folder ``path``, replacing what is there.

    The new checkpoint is complete on disk before the old one goes.
    """
    path = pathlib.Path(path).absolute()
    named = _named(tree)
    keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in named.items() if _is_key(leaf)}
    leaves = {name: np.asarray(jax.random.key_data(leaf) if name in keys else leaf) for name, leaf in named.items()}
    manifest = {
        "metadata": metadata or {},
        "leaves": {name: _entry(leaf) for name, leaf in leaves.items()},
        "keys": keys,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with _orbax().PyTreeCheckpointer() as checkpointer:
        checkpointer.save(partial / _ARRAYS, {name: leaf for name, leaf in leaves.items() if leaf.size})
    (partial / _MANIFEST).write_text(json.dumps(manifest))
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def restore(path: str | pathlib.Path, like: PyTree) -> PyTree:
    """Read the arrays of ``path`` into the structure of ``like``, checking every one.

    Args:
      like: a pytree of arrays or ``jax.ShapeDtypeStruct``, such as ``jax.eval_shape`` gives.

    Raises:
      InputError: no checkpoint there, another structure, shape or dtype, or bytes that changed since they were written.
    """
    path = _existing(path)
    content = _read_manifest(path)
    manifest, keys = content["leaves"], content["keys"]
    wanted = _named(like)
    if difference := sorted(set(manifest) ^ set(wanted)):
        raise InputError(
            f"{path}: holds other arrays than the model has, {len(difference)} differ, first {difference[0]}; "
            "build the model with the options it was saved with"
        )
    with _orbax().PyTreeCheckpointer() as checkpointer:
        leaves = checkpointer.restore(path / _ARRAYS)
    for name, entry in manifest.items():
        if 0 in entry["shape"]:  # Orbax writes no empty arrays
            leaves[name] = np.zeros(entry["shape"], entry["dtype"])
    restored = []
    for name, leaf in wanted.items():
        array = _checked(path, name, np.asarray(leaves[name]), manifest[name], leaf)
        restored.append(jax.random.wrap_key_data(array, impl=keys[name]) if name in keys else array)
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def metadata(path: str | pathlib.Path) -> dict[str, Any]:
    """What was given to ``save`` as ``metadata``."""
    return _read_manifest(_existing(path))["metadata"]


def exists(path: str | pathlib.Path) -> bool:
    """Whether ``restore`` finds a checkpoint at ``path``."""
    path = pathlib.Path(path)
    return path.is_dir() or path.with_name(path.name + ".old").is_dir()


def _existing(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path).absolute()
    old = path.with_name(path.name + ".old")
    if not path.is_dir() and old.is_dir():  # killed between the two renames of `save`
        return old
    if not path.is_dir():
        raise InputError(f"{path}: no checkpoint there; check the path")
    return path


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((path / _MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a checkpoint of jaxmodels ({type(error).__name__}); check the path") from error


def _checked(path: pathlib.Path, name: str, leaf: np.ndarray, entry: dict, like: Any) -> jax.Array:
    if _digest(leaf) != entry["sha256"]:
        raise InputError(f"{path}: {name} is damaged (its sha256 differs); restore an older checkpoint or a copy")
    expected = jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like
    if leaf.shape != expected.shape or leaf.dtype != expected.dtype:
        raise InputError(
            f"{path}: {name} is {leaf.dtype} {leaf.shape}, the model has {expected.dtype} {expected.shape}; "
            "build the model with the options it was saved with"
        )
    return jnp.array(leaf)  # a copy that XLA owns: the training step donates it


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _entry(leaf: np.ndarray) -> dict[str, Any]:
    return {"sha256": _digest(leaf), "shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _named(tree: PyTree) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(leaf).view(np.uint8).data).hexdigest()


def _orbax():
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise InputError("orbax: needed for checkpoints; pip install 'jaxmodels[checkpoints]'") from error
    return orbax.checkpoint
