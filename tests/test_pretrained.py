"""Published weights: torch files read as torch reads them, refused where they are broken or do more than hold tensors,
and every name of theirs accounted for.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import zipfile
from collections import Counter, OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import data, pretrained, resnet
from jaxmodels.core import InputError
from jaxmodels.pretrained import naming, torch_pickle

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


# Files written without torch: opcodes by hand, because the pickles that must be refused are none that torch writes.


def op(value):
    """The opcodes that push ``value``."""
    return pickle.dumps(value, 2)[2:-1]


def storage_op(key, count, kind="FloatStorage"):
    return b"(" + op("storage") + b"ctorch\n" + kind.encode() + b"\n" + op(key) + op("cpu") + op(count) + b"tQ"


def tensor_op(key, shape, *, count=None, offset=0, strides=None, kind="FloatStorage"):
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    storage = storage_op(key, int(np.prod(shape)) if count is None else count, kind)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + op(offset)
        + op(tuple(shape))
        + op(tuple(strides))
        + op(False)
        + b"ccollections\nOrderedDict\n)RtR"
    )


def write_zip(path, content, storages=(), **more):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        for key, raw in dict(storages).items():
            archive.writestr(f"archive/data/{key}", raw)
        for name, raw in more.items():
            archive.writestr(f"archive/{name}", raw)
    return path


def save(path, tensors, **beside):
    """What ``torch.save({**tensors, **beside}, path)`` writes; arrays of zeros share one number, as ``expand`` does."""
    content, storages = b"}(", {"zero": bytes(4)}
    for index, (name, array) in enumerate(tensors.items()):
        content += op(name)
        if array.any() or array.dtype != np.float32:
            kind = {"float32": "FloatStorage", "int8": "CharStorage"}[str(array.dtype)]
            content += tensor_op(str(index), array.shape, kind=kind)
            storages[str(index)] = array.tobytes()
        else:
            content += tensor_op("zero", array.shape, count=1, strides=(0,) * array.ndim)
    for name, value in beside.items():
        content += op(name) + op(value)
    return write_zip(path, content + b"u", storages)


def zeros(model, num_classes=7):
    """A state dict of the right names and shapes."""
    shapes = jax.eval_shape(getattr(resnet, model)(num_classes=num_classes).init, jax.random.key(0), IMAGE)
    return {slot.name: np.zeros(slot.shape, np.float32) for slot in naming.leaves(naming.slots(shapes))}


@pytest.fixture(scope="module")
def resnet18():
    """A state dict with numbers in it, and torch's batch counts."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=zero.shape).astype(np.float32) for name, zero in zeros("resnet18").items()}
    return tensors | {"bn1.num_batches_tracked": np.ones(1, np.int8)}


def prefixed(prefix, tensors):
    return {prefix + name: array for name, array in tensors.items()}


# The reader, against torch.


def assert_same(ours, theirs, torch):
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, np.ndarray)
        assert ours.shape == tuple(theirs.shape)
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
        bits = theirs.detach().resolve_neg().resolve_conj().contiguous().reshape(-1).view(torch.uint8)
        np.testing.assert_array_equal(np.ascontiguousarray(ours).reshape(-1).view(np.uint8), bits.numpy())
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert_same(ours[name], value, torch)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, torch)
    else:
        assert ours == theirs


def all_kinds(torch):
    grid = torch.arange(24.0).reshape(4, 6)
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128"
    return {
        "dtypes": [torch.tensor([[0, 1], [3, 100]]).to(getattr(torch, name)) for name in names.split()],
        "views": [grid, grid.T, grid[1:3, ::2], grid[:, 3], torch.ones(1).expand(3, 5), grid[0].flip(0), grid[2:2]],
        "scalar": torch.tensor(3.5),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "state_dict": torch.nn.BatchNorm1d(2).state_dict(),
        "plain": (1, -(2**70), 2.5, "é", None, True, [()], OrderedDict(a=1), Counter("aab"), torch.Size([2, 3])),
    }


@FORMATS
def test_every_kind_of_content_is_what_torch_reads(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    torch.save(all_kinds(torch), tmp_path / "all.pth", _use_new_zipfile_serialization=is_zip)
    ours = torch_pickle.read(tmp_path / "all.pth")
    assert_same(ours, torch.load(tmp_path / "all.pth", weights_only=False), torch)
    assert np.shares_memory(*ours["views"][:2])


def test_newer_dtypes_and_pending_signs_are_what_torch_reads(tmp_path):
    torch = pytest.importorskip("torch")
    one, other = (torch.randn(4, dtype=torch.complex64) for _ in range(2))
    names = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    content = [torch.tensor([0.0, 1.0, 7.0]).to(getattr(torch, name)) for name in names]
    content += [one.conj(), other.conj().imag]
    assert content[-2].is_conj()
    assert content[-1].is_neg()
    torch.save(content, tmp_path / "new.pth")
    assert_same(torch_pickle.read(tmp_path / "new.pth"), torch.load(tmp_path / "new.pth", weights_only=False), torch)


def test_bytes_in_big_endian_order(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    swapped = {"0": values.byteswap().tobytes()}
    write_zip(tmp_path / "big.pth", tensor_op("0", (2, 3)), swapped, byteorder="big")
    np.testing.assert_array_equal(torch_pickle.read(tmp_path / "big.pth"), values)


def test_legacy_files_of_a_big_endian_machine_hold_little_endian_numbers(tmp_path):
    """torch swaps the bytes when it writes them there, and notes the machine's order all the same."""
    torch = pytest.importorskip("torch")
    written = io.BytesIO()
    torch.save(torch.arange(5.0), written, _use_new_zipfile_serialization=False)
    raw, count = re.subn(rb"(?<=little_endianq.)\x88", b"\x89", written.getvalue(), flags=re.DOTALL)
    assert count == 1
    (tmp_path / "big.pth").write_bytes(raw)
    np.testing.assert_array_equal(torch_pickle.read(tmp_path / "big.pth"), np.arange(5.0))


# What is refused.


def refusal(path):
    with pytest.raises(InputError) as error:
        torch_pickle.read(path)
    message = str(error.value)
    assert message.startswith(f"weights: {os.fspath(path)!r} ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html>404</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of git-lfs"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"weights", "is not a torch file: it starts with b'weights'"),
        (b"PK\x03\x04archive/data.pkl", "is truncated: the end of its zip archive is missing"),
        (b"\x80\x02" + bytes(range(256)), "is truncated or corrupt"),
        (b"\x80", "is truncated or corrupt"),
        (pickle.dumps({"a": 1}, 2), "is a pickle, but not torch's"),
    ],
)
def test_what_is_no_torch_file(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    assert message in refusal(tmp_path / "a.pth")


def test_no_file_and_no_permission_to_read_a_folder(tmp_path):
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "missing.pth")
    assert "cannot be read (Is a directory)" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "builtins.getattr",
        "torch.nn.modules.linear.Linear",
        "numpy.core.multiarray.scalar",
    ],
)
@FORMATS
def test_nothing_else_is_ever_called(tmp_path, name, is_zip):
    module, _, function = name.rpartition(".")
    program = f"c{module}\n{function}\n".encode() + op((f"touch {tmp_path / 'ran'}",)) + b"R"
    path = tmp_path / "evil.pth"
    if is_zip:
        write_zip(path, program)
    else:
        path.write_bytes(b"\x80\x02" + program + b".")
    assert f"asks for {name}, which this reader never runs" in refusal(path)
    assert not (tmp_path / "ran").exists()


def test_a_file_leaves_no_trace_in_the_reader(tmp_path):
    """A pickle may set attributes of the functions that it is given: here, that tensors without metadata be negated."""
    setting = op((None, {"__defaults__": (False, None, {"neg": True})}))
    write_zip(tmp_path / "evil.pth", b"ctorch._utils\n_rebuild_tensor_v2\n" + setting + b"b" + b"0" + op(1))
    assert torch_pickle.read(tmp_path / "evil.pth") == 1
    storages = {"0": np.ones(2, np.float32).tobytes()}
    write_zip(tmp_path / "good.pth", tensor_op("0", (2,)), storages)
    assert torch_pickle.read(tmp_path / "good.pth").tolist() == [1, 1]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"shape": (3,)}, "a tensor ends at 3 of 2 elements"),
        ({"shape": (2,), "offset": 1}, "a tensor ends at 3 of 2 elements"),
        ({"shape": (2,), "strides": (10**18,)}, "truncated or corrupt"),
        ({"shape": (2,), "strides": (-1,)}, "is corrupt: a tensor has shape"),
        ({"shape": (-2,), "strides": (1,)}, "is corrupt: a tensor has shape"),
        ({"shape": (2,), "strides": ()}, "truncated or corrupt"),
        ({"shape": (1,) * 70, "strides": (0,) * 70}, "truncated or corrupt"),
        ({"shape": (2,), "kind": "QInt8Storage"}, "asks for torch.QInt8Storage"),
    ],
)
def test_tensors_that_no_file_can_hold(tmp_path, tensor, message):
    raw = {"0": np.ones(2, np.float32).tobytes()}
    assert message in refusal(write_zip(tmp_path / "a.pth", tensor_op("0", count=2, **tensor), raw))


def test_archives_that_are_not_torchs(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("photo.jpg", b"")
    assert "without data.pkl, so not torch's; it holds photo.jpg" in refusal(tmp_path / "other.pth")
    path = write_zip(tmp_path / "script.pth", op(1), **{"constants.pkl": b""})
    assert "is a TorchScript program" in refusal(path)
    assert "is truncated or corrupt (KeyError" in refusal(write_zip(tmp_path / "lacks.pth", tensor_op("0", (2,))))


def test_bombs_do_not_go_off(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_op("0", (2**22,)))
        archive.writestr("archive/data/0", bytes(2**24))
    assert "unpacks to more than its own size" in refusal(tmp_path / "bomb.pth")
    lists, dicts, cycle = [], {}, []
    for _ in range(100):
        lists, dicts = [lists, lists], {"a": dicts, "b": dicts}
    assert len(torch_pickle.read(write_zip(tmp_path / "lists.pth", op(lists)))) == 2
    with pytest.raises(InputError, match="holds no named tensors"):
        pretrained.inspect(write_zip(tmp_path / "dicts.pth", op(dicts)))
    cycle.append(cycle)
    assert "is truncated or corrupt" in refusal(write_zip(tmp_path / "cycle.pth", op(cycle)))


@FORMATS
def test_truncated_and_damaged_files_are_read_or_refused(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    path, written = tmp_path / "a.pth", io.BytesIO()
    torch.save({"w": torch.ones(3, 3), "b": torch.ones(2).half()}, written, _use_new_zipfile_serialization=is_zip)
    raw, rng = written.getvalue(), np.random.default_rng(0)
    for length in range(0, len(raw) - 1, 7):
        path.write_bytes(raw[:length])
        refusal(path)
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            torch_pickle.read(path)


# From a file's names to a model's.


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_names_and_shapes_are_torchvisions(depth):
    torch = pytest.importorskip("torch")
    from torch_resnet import torch_resnet

    with torch.device("meta"):
        theirs = torch_resnet(depth, 7).state_dict()
    theirs = {name: tuple(leaf.shape) for name, leaf in theirs.items() if not name.endswith("num_batches_tracked")}
    assert {name: zero.shape for name, zero in zeros(f"resnet{depth}").items()} == theirs


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("", {}),
        ("module.", {"optimizer": {"state": {0: {"step": 3}}}}),
        ("module.pre.", {}),
        ("backbone.", {"epoch": 3, "arch": "resnet18", "best_acc1": 0.5}),
        ("state_dict.model.", {"epoch": 3}),
    ],
)
def test_what_stands_before_the_names_is_stripped(tmp_path, resnet18, prefix, beside):
    path = save(tmp_path / "a.pth", prefixed(prefix, resnet18), **beside)
    report = pretrained.inspect(path, model="resnet18")
    assert report.fits
    assert (report.prefix, report.other_prefixes, report.unused, report.beside) == (prefix, (), (), ())
    assert set(report.matched) == set(prefixed(prefix, resnet18)) - {f"{prefix}bn1.num_batches_tracked"}
    _, params, state, _ = pretrained.load(path, model="resnet18")
    np.testing.assert_array_equal(params["stem"]["kernel"], resnet18["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["head"]["kernel"], resnet18["fc.weight"].T)
    block = state["batch_stats"]["stage2_block1"]["shortcut"]
    np.testing.assert_array_equal(block["var"], resnet18["layer2.0.downsample.1.running_var"])


def test_nested_containers_are_unwrapped(tmp_path, resnet18):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(array) for name, array in resnet18.items()}
    torch.save({"epoch": 3, "model": {"net": tensors}}, tmp_path / "a.pth")
    assert pretrained.inspect(tmp_path / "a.pth", model="resnet18").prefix == "model.net."


def test_all_leaves_are_those_of_the_model(tmp_path, resnet18):
    model, params, state, preprocess = pretrained.load(save(tmp_path / "a.pth", resnet18), model="resnet18")
    assert model is resnet.resnet18(num_classes=7)
    expected = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    found = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state))
    assert found == expected
    from jaxmodels.preprocess.images import IMAGENET

    assert preprocess == IMAGENET


def test_two_networks_in_a_file(tmp_path, resnet18):
    doubled = {name: 2 * array for name, array in resnet18.items()}
    path = save(tmp_path / "a.pth", prefixed("encoder_q.", resnet18) | prefixed("encoder_k.", doubled))
    report = pretrained.inspect(path, model="resnet18")
    assert (report.prefix, report.other_prefixes) == ("encoder_q.", ("encoder_k.",))
    assert "'encoder_k.' would fit as well" in str(report)
    assert len(report.beside) == len(report.matched)
    first, second = (pretrained.load(path, model="resnet18", prefix=each).params for each in (None, "encoder_k."))
    np.testing.assert_array_equal(2 * first["stem"]["kernel"], second["stem"]["kernel"])


def test_the_smaller_network_is_not_taken_from_a_larger_one(tmp_path):
    """A teacher of depth 34 has every name and shape of its student of depth 18."""
    path = save(tmp_path / "a.pth", prefixed("a.", zeros("resnet34")) | prefixed("b.", zeros("resnet18")))
    assert pretrained.inspect(path, model="resnet18").prefix == "b."
    assert pretrained.inspect(path, model="resnet34").prefix == "a."


def test_another_number_of_classes_leaves_the_head_out(tmp_path, resnet18):
    path = save(tmp_path / "a.pth", resnet18)
    features = pretrained.load(path, model="resnet18", num_classes=0)
    assert "head" not in features.params
    assert pretrained.inspect(path, model="resnet18", num_classes=0).unused == ("fc.bias", "fc.weight")
    one, other, again = (
        pretrained.load(path, model="resnet18", num_classes=3, key=jax.random.key(seed)).params for seed in (1, 2, 1)
    )
    assert one["head"]["kernel"].shape == (512, 3)
    assert not np.array_equal(one["head"]["kernel"], other["head"]["kernel"])
    np.testing.assert_array_equal(one["head"]["kernel"], again["head"]["kernel"])
    assert not one["head"]["bias"].any()
    jax.tree.map(np.testing.assert_array_equal, {**one, "head": 0}, {**features.params, "head": 0})
    report = str(pretrained.inspect(path, model="resnet18", num_classes=3))
    assert "head of 3 classes drawn anew (the file's has 7)" in report
    assert "\n" not in report


def test_a_file_without_a_head(tmp_path, resnet18):
    bare = {name: array for name, array in resnet18.items() if not name.startswith("fc.")}
    path = save(tmp_path / "a.pth", bare | {"fc.0.weight": np.ones((4, 512), np.float32)})
    assert pretrained.load(path, model="resnet18").model is resnet.resnet18(num_classes=0)
    report = pretrained.inspect(path, model="resnet18")
    assert (report.file_classes, report.num_classes, report.unused) == (None, 0, ("fc.0.weight",))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_parameters_are_float32_whatever_the_file_has(tmp_path, resnet18, dtype):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(array).to(getattr(torch, dtype)) for name, array in resnet18.items()}
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    params = pretrained.load(tmp_path / "a.pth", model="resnet18").params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["stem"]["scale"], tensors["bn1.weight"].float().numpy())


def misfit(tmp_path, tensors, **arguments):
    with pytest.raises(InputError) as error:
        pretrained.load(save(tmp_path / "a.pth", tensors), **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "model"),
    [("resnet18", "resnet50"), ("resnet34", "resnet18"), ("resnet101", "resnet50"), ("resnet152", "resnet101")],
)
def test_another_architecture_is_recognised(tmp_path, file, model):
    """resnet34 holds all that resnet18 needs, and 101 all of 50: more than needed is an error too."""
    message = misfit(tmp_path, prefixed("module.", zeros(file)), model=model, num_classes=0)
    assert f"does not fit {model}" in message
    assert f"it looks like {file}: pass model='{file}'" in message


def test_the_first_misfits_are_named_with_both_shapes(tmp_path):
    message = misfit(tmp_path, zeros("resnet50"), model="resnet18", num_classes=0)
    assert "layer1.0.conv1.weight: (64, 64, 1, 1), the model has (64, 64, 3, 3)" in message
    assert re.search(r"\d+ strange \(layer1\.0\.", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.bn1.weight": None}, "1 missing (layer1.0.bn1.weight); it is none of resnet18"),
        ({"layer1.0.bn1.weight": np.zeros(3, np.float32)}, "layer1.0.bn1.weight: (3,), the model has (64,)"),
        ({"conv1.bias": np.zeros(64, np.float32)}, "1 strange (conv1.bias)"),
        ({"layer1.0.se.fc.weight": np.zeros(64, np.float32)}, "1 strange (layer1.0.se.fc.weight)"),
        ({"conv1.weight": np.zeros((64, 3, 7, 7), np.int8)}, "conv1.weight: int8, the model has floats"),
        ({"fc.bias": None}, "1 missing (fc.bias)"),
    ],
)
def test_a_network_that_is_nearly_the_model_is_refused(tmp_path, change, message):
    tensors = {name: array for name, array in (zeros("resnet18") | change).items() if array is not None}
    assert message in misfit(tmp_path, tensors, model="resnet18")


def test_strict_refuses_leftovers_and_new_heads(tmp_path):
    tensors = zeros("resnet18") | {"projector.weight": np.zeros((2, 2), np.float32)}
    assert "1 tensors that resnet18 with num_classes=7 does not (projector.weight)" in misfit(
        tmp_path, tensors, model="resnet18", strict=True
    )
    path = save(tmp_path / "a.pth", tensors)
    assert pretrained.inspect(path, model="resnet18").unused == ("projector.weight",)
    pretrained.load(path, model="resnet18")
    path = save(tmp_path / "b.pth", zeros("resnet18"))
    pretrained.load(path, model="resnet18", num_classes=0, strict=True)
    with pytest.raises(InputError, match=r"2 tensors that resnet18 with num_classes=3 does not \(fc"):
        pretrained.load(path, model="resnet18", num_classes=3, strict=True)
    headless = {name: array for name, array in zeros("resnet18").items() if not name.startswith("fc.")}
    assert "has no head, num_classes=3 would draw one" in misfit(
        tmp_path, headless, model="resnet18", num_classes=3, strict=True
    )


def test_unknown_models_and_prefixes_are_named(tmp_path):
    path = save(tmp_path / "a.pth", zeros("resnet18"))
    with pytest.raises(InputError, match="model: 'resnet19' is none of resnet18, "):
        pretrained.load(path, model="resnet19")
    with pytest.raises(InputError, match=r"\d+ missing \(net\."):
        pretrained.load(path, model="resnet18", prefix="net.")


# A real file.


@pytest.fixture(scope="module")
def weights(data_dir):
    return data_dir / "weights" / "resnet50_augnet.pth"


def test_every_name_of_a_real_file_is_accounted_for(weights):
    report = pretrained.inspect(weights, num_classes=0)
    assert report.fits
    assert (report.prefix, report.file_classes, len(report.matched)) == ("module.pre.", 768, 265)
    assert set(report.unused) == {"module.pre.fc.weight", "module.pre.fc.bias"}
    model, params, state, _ = pretrained.load(weights)
    assert model is resnet.resnet50(num_classes=768)
    assert pretrained.load(weights, num_classes=0, variant="v1").model is resnet.resnet50(num_classes=0, variant="v1")
    assert params["head"]["kernel"].shape == (2048, 768)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 25_557_032 - 2049 * (1000 - 768)
    assert all(bool((leaf >= 0).all()) for leaf in jax.tree.leaves(state["batch_stats"]["stem"]["var"]))


def test_features_of_photographs_equal_torchs(weights, data_dir):
    torch = pytest.importorskip("torch")
    from torch_resnet import torch_resnet

    folder = data_dir / "images" / "hymenoptera" / "val"
    files = sorted(folder.glob("*/*.jpg"))[::20]
    pixels = np.stack([data.decode.resize_and_crop(data.decode.decode(file)) for file in files])
    model, params, state, preprocess = pretrained.load(weights, model="resnet50", num_classes=0)
    ours = resnet.inference(model, params, state)(preprocess(pixels))

    theirs = torch_resnet(50, 768).eval()
    loaded = torch.load(weights, map_location="cpu", weights_only=True)
    theirs.load_state_dict({name.removeprefix("module.pre."): value for name, value in loaded.items()})
    theirs.fc = torch.nn.Identity()
    normalised = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        expected = theirs(torch.tensor(normalised.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)
