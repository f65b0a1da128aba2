"""Checkpoints: exact, whole or not at all, and never silently wrong."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels import checkpoint, losses, mlp, train
from jaxmodels.core import Batch, InputError

TREE = {
    "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
    "nested": (jnp.float32(0.1), {"step": jnp.int32(7), "empty": jnp.zeros((0, 3))}),
    "key": jax.random.key(3),
}


def test_everything_comes_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path / "c", TREE, metadata={"epoch": 3})
    back = checkpoint.restore(tmp_path / "c", jax.eval_shape(lambda: TREE))
    assert jax.tree.structure(back) == jax.tree.structure(TREE)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(TREE), strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours == theirs).all()
    assert checkpoint.metadata(tmp_path / "c") == {"epoch": 3}


def test_a_restored_training_state_steps_like_the_saved_one(tmp_path):
    trainer = train.trainer(
        mlp.model(hidden_sizes=(4,), dropout=0.5), loss=losses.squared_error, optimizer=optax.adam(0.1)
    )
    batch = Batch(jnp.ones((8, 3)), jnp.ones((8, 1)))
    state, _ = trainer.step(trainer.init(jax.random.key(0), batch), batch)
    checkpoint.save(tmp_path / "c", state)
    back = checkpoint.restore(tmp_path / "c", jax.eval_shape(trainer.init, jax.random.key(0), batch))
    one, _ = trainer.step(state, batch)
    two, _ = trainer.step(back, batch)
    chex.assert_trees_all_equal(jax.tree.map(np.array, one[:4]), jax.tree.map(np.array, two[:4]))


def test_a_flipped_bit_is_found(tmp_path):
    checkpoint.save(tmp_path / "c", {"w": jnp.arange(1000.0)})
    manifest = tmp_path / "c" / "manifest.json"
    content = json.loads(manifest.read_text())
    # The digest of the same values with one bit changed stands for a flip on disk, which Orbax's format may hide.
    content["leaves"]["w"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match="w is damaged"):
        checkpoint.restore(tmp_path / "c", {"w": jnp.zeros(1000)})


def test_a_flipped_bit_on_disk_is_never_restored(tmp_path):
    values = jax.random.normal(jax.random.key(0), (10_000,))
    checkpoint.save(tmp_path / "c", {"w": values})
    largest = max((path for path in (tmp_path / "c" / "arrays").rglob("*") if path.is_file()), key=os.path.getsize)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises((InputError, ValueError)):
        checkpoint.restore(tmp_path / "c", {"w": values})


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.zeros(4)}, r"w is float32 \(3,\), the model has float32 \(4,\)"),
        ({"w": jnp.zeros(3, jnp.bfloat16)}, r"the model has bfloat16"),
        ({"v": jnp.zeros(3)}, "holds other arrays than the model has, 2 differ, first v"),
    ],
)
def test_another_model_is_refused(tmp_path, like, message):
    checkpoint.save(tmp_path / "c", {"w": jnp.ones(3)})
    with pytest.raises(InputError, match=message):
        checkpoint.restore(tmp_path / "c", like)


def test_a_missing_or_foreign_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there"):
        checkpoint.restore(tmp_path / "none", TREE)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="not a checkpoint of jaxmodels"):
        checkpoint.metadata(tmp_path / "other")
    assert not checkpoint.exists(tmp_path / "none")


def test_saving_replaces_and_leaves_nothing_else(tmp_path):
    for value in (1.0, 2.0):
        checkpoint.save(tmp_path / "c", {"w": jnp.full(3, value)})
    assert checkpoint.restore(tmp_path / "c", {"w": jnp.zeros(3)})["w"].tolist() == [2, 2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_save_that_fails_keeps_the_old_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "c", {"w": jnp.ones(3)})
    monkeypatch.setattr(pathlib.Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path / "c", {"w": jnp.zeros(3)})
    monkeypatch.undo()
    assert checkpoint.restore(tmp_path / "c", {"w": jnp.zeros(3)})["w"].tolist() == [1, 1, 1]


def test_killed_between_its_two_renames_the_old_one_is_found(tmp_path):
    checkpoint.save(tmp_path / "c", {"w": jnp.ones(3)})
    (tmp_path / "c").rename(tmp_path / "c.old")
    assert checkpoint.exists(tmp_path / "c")
    assert checkpoint.restore(tmp_path / "c", {"w": jnp.zeros(3)})["w"].tolist() == [1, 1, 1]


def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path):
    code = (
        "import sys, jax.numpy as jnp; from jaxmodels import checkpoint; value = 0.0\n"
        "while True:\n"
        "    checkpoint.save(sys.argv[1], {'w': jnp.full(200_000, value)}); value += 1; print(value, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "c")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    values = np.asarray(checkpoint.restore(tmp_path / "c", {"w": jnp.zeros(200_000)})["w"])
    assert values.min() == values.max() >= 1
