"""Residual networks against torch, against autodiff, and against their own promises.

Compiling takes nearly all of the time, so each compiled network serves several promises.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxmodels import losses, mlp, resnet
from jaxmodels.core import Batch, InputError, chain, stateless
from jaxmodels.networks import layers
from jaxmodels.train import trainer

COUNTS = {18: 11689512, 34: 21797672, 50: 25557032, 101: 44549160, 152: 60192808}
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0}
IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


@pytest.fixture(scope="module")
def numbers():
    return np.random.default_rng(0)


def randomised(tree, numbers, dtype=np.float64):
    """Parameters and statistics that no initialisation gives: scales, biases, means and variances all differ."""
    draws = {
        "kernel": lambda shape: numbers.normal(size=shape) * math.sqrt(2 / math.prod(shape[:-1])),
        "scale": lambda shape: numbers.uniform(0.5, 1.0, shape),
        "bias": lambda shape: 0.1 * numbers.normal(size=shape),
        "mean": lambda shape: 0.1 * numbers.normal(size=shape),
        "var": lambda shape: numbers.uniform(0.5, 2.0, shape),
    }
    return jax.tree_util.tree_map_with_path(lambda path, leaf: draws[path[-1].key](leaf.shape).astype(dtype), tree)


def random_model(model, numbers):
    return randomised(jax.eval_shape(model.init, jax.random.key(0), IMAGE), numbers)


def torch_twin(depth, params, state, **options):
    """torch's network with our values, which counts what each batch norm averages over."""
    torch_resnet = pytest.importorskip("torch_resnet")
    network = torch_resnet.torch_resnet(depth, len(params["head"]["bias"]), **options).double()
    network.load_state_dict(torch_resnet.state_dict(params, state), strict=False)  # num_batches_tracked is torch's own

    def count(module, inputs):
        module.count = inputs[0].numel() // inputs[0].shape[1]

    for module in network.modules():
        if hasattr(module, "running_var"):
            module.register_forward_pre_hook(count)
    return network, torch_resnet.state_dict


def torch_images(images):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def torch_step(network, images, labels):
    """Logits, mean cross-entropy and gradients; the running statistics are updated in place."""
    torch = pytest.importorskip("torch")
    logits = network.train()(torch_images(images))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    return logits.detach().numpy(), loss.item(), {name: part.grad for name, part in network.named_parameters()}


def running_statistics(network, state, named):
    """torch's, after one step from ``state``, with batch variances divided by the count instead of count - 1."""
    found, before = network.state_dict(), named(state)
    for name, module in network.named_modules():
        if hasattr(module, "running_var"):
            kept = 0.9 * before[f"{name}.running_var"]
            module.running_var.copy_(kept + (module.running_var - kept) * (module.count - 1) / module.count)
    return found


def assert_same(ours, theirs, tolerance):
    """Equal to ``tolerance`` of the largest value of each array."""
    for name, value in ours.items():
        other = theirs[name]
        scale = float(abs(other).max())
        np.testing.assert_allclose(value, other, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_close(tree, other, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * (abs(b).max() or 1)), tree, other
    )


@pytest.mark.parametrize(("depth", "count"), COUNTS.items())
def test_parameter_counts_are_torchvisions(depth, count):
    params, state = jax.eval_shape(resnet.resnet(depth).init, jax.random.key(0), IMAGE)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert jax.tree.structure(state["batch_stats"]["stem"]) == jax.tree.structure({"mean": 0, "var": 0})


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_basic_training_step_equals_torchs_with_padding_and_weights_and_compiles_once(numbers):
    """Through ``trainer``, whose optimizer here only keeps the gradient; odd sizes, and a padded row of NaN."""
    model, traces = resnet.resnet18(num_classes=7), []
    counted = model._replace(apply=lambda *args, **kwargs: (traces.append(1), model.apply(*args, **kwargs))[1])
    init, step = trainer(counted, loss=losses.softmax_cross_entropy, optimizer=optax.trace(0.0), donate=False)
    params, state = random_model(model, numbers)
    images, labels = numbers.normal(size=(4, 24, 33, 3)), np.array([1, 6, 3, 0])
    images[3] = np.nan
    batch = Batch(images, labels, np.array([1.0, 1.0, 1.0, 0.0]))
    start = init(jax.random.key(0), batch)._replace(params=params, state=state)

    def gradients(batch):
        after, info = step(start, batch)
        return {"loss": info.loss, "gradients": after.opt_state.trace, "state": after.state}

    padded = gradients(batch)
    repeated = gradients(Batch(images[[0, 0, 1, 2]], labels[[0, 0, 1, 2]], np.ones(4)))
    weighted = gradients(Batch(images, labels, np.array([2.0, 1.0, 1.0, 0.0])))
    assert_close(weighted, repeated, 1e-12)
    step(step(start, batch)[0], batch)  # a state that a step returned
    assert len(traces) == 1

    network, named = torch_twin(18, params, state)
    _, loss, theirs = torch_step(network, images[:3], labels[:3])
    np.testing.assert_allclose(padded["loss"], loss, rtol=1e-12)
    assert_same(named(padded["gradients"]), theirs, 1e-10)
    assert_same(named(padded["state"]), running_statistics(network, state, named), 1e-12)


@pytest.mark.usefixtures("x64")
def test_bottleneck_outputs_and_gradients_equal_torchs(numbers):
    pytest.importorskip("torch")
    model = resnet.resnet50(num_classes=5)
    params, state = random_model(model, numbers)
    images, labels = numbers.normal(size=(2, 33, 40, 3)), np.array([4, 2])

    @functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params):
        logits, carried = model.apply(params, state, images, train=True)
        return losses.softmax_cross_entropy(logits, labels).mean(), (logits, carried)

    (loss, (logits, carried)), gradients = step(params)
    network, named = torch_twin(50, params, state)
    their_logits, their_loss, theirs = torch_step(network, images, labels)
    np.testing.assert_allclose(loss, their_loss, rtol=1e-12)
    np.testing.assert_allclose(logits, their_logits, rtol=1e-10, atol=1e-11)
    assert_same(named(gradients), theirs, 1e-10)
    assert_same(named(carried), running_statistics(network, state, named), 1e-12)


@pytest.mark.usefixtures("x64")
def test_v1_equals_torch_and_padding_reaches_nothing(numbers, monkeypatch):
    """Of fewer blocks, to save time; with XLA's own convolutions and sums, which a GPU has, a padded row of NaN in
    training, and inference with batch norms folded."""
    torch_resnet = pytest.importorskip("torch_resnet")
    for stages in (resnet._STAGES, torch_resnet.STAGES):
        monkeypatch.setitem(stages, 50, (1, 2, 1, 1))
    model = resnet.resnet50(num_classes=6, variant="v1", native=True)
    params, state = random_model(model, numbers)
    images, labels = numbers.normal(size=(3, 33, 33, 3)), np.array([4, 2, 0])
    images[2] = np.nan

    @functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params, weights):
        logits, carried = model.apply(params, state, images, train=True, weights=weights)
        return losses.softmax_cross_entropy(logits, labels)[:2].mean(), carried

    (loss, carried), gradients = step(params, np.array([1.0, 1.0, 0.0]))
    (nothing, unchanged), _ = step(params, np.zeros(3))
    assert_close(unchanged, state, 0)
    assert np.isfinite(nothing)

    network, named = torch_twin(50, params, state, variant="v1")
    folded = resnet.inference(model, params, state)(images[:2])
    np.testing.assert_allclose(folded, network.eval()(torch_images(images[:2])).detach(), rtol=1e-10, atol=1e-10)
    _, their_loss, theirs = torch_step(network, images[:2], labels[:2])
    np.testing.assert_allclose(loss, their_loss, rtol=1e-12)
    assert_same(named(gradients), theirs, 1e-10)
    assert_same(named(carried), running_statistics(network, state, named), 1e-12)


@pytest.mark.usefixtures("x64")
def test_folded_inference_equals_apply_and_compiles_once(numbers):
    """A chain of what has no ``fold``, a ResNet, and what has none again."""
    traces = []

    def preprocess(images):
        traces.append(1)
        return 2 * images - 1

    model = chain(stateless(preprocess), resnet.resnet18(num_classes=0), mlp.model(num_outputs=3))
    params, state = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float64))
    images = numbers.uniform(size=(2, 32, 32, 3))
    apply, folding_traces = resnet.inference(model, params, state, fast=False), []
    for _ in range(2):
        values = [randomised(tree[1], numbers) for tree in (params, state)]
        params, state = (params[0], values[0], params[2]), (state[0], values[1], state[2])
        predict = resnet.inference(model, params, state)
        traces.clear()
        folded = predict(images)
        folding_traces.append(len(traces))
        expected = resnet.inference(model, params, state, fast=False)(images)
        np.testing.assert_allclose(folded, expected, rtol=1e-10, atol=1e-10)
    assert folding_traces == [1, 0]
    assert not np.allclose(apply(images), expected)


def test_apply_without_training_leaves_the_state():
    model = resnet.resnet18(num_classes=2)
    params, state = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    jaxpr = jax.make_jaxpr(model.apply)(params, state, IMAGE)
    leaves = len(jax.tree.leaves(state))
    assert jaxpr.jaxpr.outvars[-leaves:] == jaxpr.jaxpr.invars[-leaves - 1 : -1]


@pytest.mark.parametrize("native", [True, False])
def test_no_images_give_no_logits(native):
    model = resnet.resnet50(num_classes=2, native=native)
    params, state = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    for train in (True, False):
        none = jax.ShapeDtypeStruct((0, *IMAGE.shape[1:]), jnp.float32)
        assert jax.eval_shape(functools.partial(model.apply, train=train), params, state, none)[0].shape == (0, 2)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    model = resnet.resnet18(num_classes=2, dtype="bfloat16", native=True)  # whose products are all convolutions
    params, state = jax.eval_shape(model.init, jax.random.key(0), IMAGE)

    def loss(params, state, images):
        return model.apply(params, state, images, train=True)[0].sum()

    def convolutions(jaxpr):
        for each in jaxpr.eqns:
            if each.primitive is lax.conv_general_dilated_p:
                yield each
            elif "jaxpr" in each.params:  # a function under jit
                yield from convolutions(each.params["jaxpr"].jaxpr)

    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    jaxpr, gradients = jax.make_jaxpr(jax.grad(loss), return_shape=True)(params, state, images)
    found = list(convolutions(jaxpr.jaxpr))
    assert len(found) == 3 * 20 - 1  # forward, by the kernel, by the inputs: but not by the images
    assert {var.aval.dtype for each in found for var in (*each.invars, *each.outvars)} == {jnp.dtype(jnp.bfloat16)}
    for train in (True, False):
        outputs = jax.eval_shape(functools.partial(model.apply, train=train), params, state, IMAGE)
        assert {leaf.dtype for leaf in jax.tree.leaves((params, state, outputs, gradients))} == {jnp.dtype("float32")}
    folded = jax.eval_shape(lambda *values: model.fold(*values)[0], params, state)
    assert folded["stem"]["kernel"].dtype == jnp.bfloat16


@pytest.mark.usefixtures("x64")
def test_float64_inputs_give_float64():
    model = resnet.resnet18(num_classes=2)
    image = jax.ShapeDtypeStruct(IMAGE.shape, jnp.float64)
    params, state = jax.eval_shape(model.init, jax.random.key(0), image)
    outputs = jax.eval_shape(functools.partial(model.apply, train=True), params, state, image)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state, outputs))} == {jnp.dtype("float64")}


def test_float64_images_without_x64_are_float32_in_silence(recwarn):
    model = resnet.resnet18(num_classes=2)
    images = np.zeros((1, 8, 8, 3))
    params, state = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    assert jax.eval_shape(lambda *values: model.apply(*values, images)[0], params, state).dtype == jnp.float32
    assert not recwarn.list


@pytest.mark.slow
def test_dropout_drops_by_its_key_in_training_alone():
    model = resnet.resnet18(num_classes=0, dropout=0.25, stem="small", zero_init_residual=False)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    params, state = model.init(jax.random.key(0), images)
    with pytest.raises(InputError, match=r"^key: "):
        model.apply(params, state, images, train=True)

    @functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def train(key):
        return model.apply(params, state, images, train=True, key=key)[0]

    first, again, other = train(jax.random.key(2)), train(jax.random.key(2)), train(jax.random.key(3))
    np.testing.assert_array_equal(first, again)
    assert abs((first == 0).mean() - 0.25) < 0.04
    both = (first != 0) & (other != 0)
    assert 0.5 < both.mean() < 0.62
    np.testing.assert_allclose(first[both], other[both], rtol=1e-6)


@pytest.mark.slow
def test_initial_values_do_not_depend_on_the_transformation():
    model = resnet.resnet18(num_classes=3)
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jax.jit(jax.vmap(lambda key: model.init(key, IMAGE)), compiler_options=QUICK_TO_COMPILE)(keys)
    for lane, key in enumerate(keys):
        alone = model.init(key, IMAGE)
        # The same draws; compilers may round their scaling differently.
        jax.tree.map(lambda one, all, lane=lane: np.testing.assert_allclose(one, all[lane], rtol=1e-6), alone, stacked)


def test_initial_distributions():
    params, state = resnet.resnet50(num_classes=100).init(jax.random.key(0), IMAGE)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names, value = [part.key for part in path], np.asarray(leaf)
        if names == ["head", "kernel"]:
            variance = 1 / 2048
        elif names[-1] == "kernel":
            variance = 2 / (value.shape[0] * value.shape[1] * value.shape[3])
        else:
            assert (value == (names[-1] == "scale" and names[1] != "conv3")).all(), names
            continue
        error = math.sqrt(2 / value.size)
        np.testing.assert_allclose(value.var(), variance, rtol=5 * error)
        assert abs(value.mean()) < 5 * math.sqrt(variance / value.size), names
    assert all((leaf == (path[-1].key == "var")).all() for path, leaf in jax.tree_util.tree_leaves_with_path(state))


@pytest.mark.slow
def test_zero_init_makes_each_block_the_identity():
    model = resnet.resnet18(features=("stem", "stage1"), num_classes=2)
    params, state = model.init(jax.random.key(0), IMAGE)
    images = jax.random.normal(jax.random.key(1), (2, 33, 32, 3))
    found, _ = jax.jit(model.apply, compiler_options=QUICK_TO_COMPILE)(params, state, images)
    np.testing.assert_array_equal(found["stage1"], layers.max_pool(found["stem"]))
    scales = resnet.resnet18(features=("stem",), zero_init_residual=False).init(jax.random.key(0), IMAGE)[0][
        "stage1_block1"
    ]
    assert (scales["conv2"]["scale"] == 1).all()
    assert (params["stage1_block1"]["conv2"]["scale"] == 0).all()


@pytest.mark.parametrize(
    ("stem", "size", "first", "last"),
    [
        ("imagenet", (224, 224), (112, 112), (7, 7)),
        ("imagenet", (33, 47), (17, 24), (2, 2)),
        ("imagenet", (8, 8), (4, 4), (1, 1)),
        ("imagenet", (1, 1), (1, 1), (1, 1)),
        ("small", (32, 32), (32, 32), (4, 4)),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_features_of_any_size_share_the_classifiers_parameters(stem, size, first, last, dtype):
    classifier = resnet.resnet18(num_classes=9, stem=stem)
    model = resnet.resnet18(num_classes=9, stem=stem, features=list(resnet.FEATURES), dtype=dtype)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    values = jax.eval_shape(classifier.init, jax.random.key(0), image)
    outputs, _ = jax.eval_shape(model.apply, *values, image)
    assert set(outputs) == set(resnet.FEATURES)
    shapes = {name: value.shape for name, value in outputs.items()}
    assert shapes["stem"] == (2, *first, 64)
    assert shapes["stage4"] == (2, *last, 512)
    assert shapes["pooled"] == (2, 512)
    assert {value.dtype for value in outputs.values()} == {jnp.dtype("float32")}
    headless = resnet.resnet18(num_classes=0, stem=stem)
    assert jax.eval_shape(headless.apply, *values, image)[0].shape == (2, 512)
    assert jax.eval_shape(classifier.apply, *values, image)[0].shape == (2, 9)


def test_same_arguments_give_the_same_model():
    assert resnet.resnet50() is resnet.resnet(50, 1000, variant="v1.5", dropout=0)
    assert resnet.resnet18(dtype="bfloat16", features=["stem"]) is resnet.resnet18(
        dtype=jnp.bfloat16, features=("stem",)
    )
    assert resnet.resnet18(precision="highest") is resnet.resnet18(precision=lax.Precision.HIGHEST)
    assert resnet.resnet50() is not resnet.resnet50(variant="v1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 20},
        {"num_classes": -1},
        {"num_classes": 2.5},
        {"variant": "v2"},
        {"stem": "large"},
        {"momentum": 1.5},
        {"momentum": "0.9"},
        {"epsilon": 0.0},
        {"epsilon": math.nan},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"dtype": "int8"},
        {"dtype": "float33"},
        {"precision": "best"},
        {"native": "cpu"},
        {"features": "stem"},
        {"features": ("stage5",)},
    ],
    ids=str,
)
def test_wrong_arguments_are_named(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=f"^{name}: ") as caught:
        resnet.resnet(**{"depth": 18, **wrong})
    assert "\n" not in str(caught.value)


def test_wrong_inputs_are_named():
    model = resnet.resnet18(num_classes=2)
    params, state = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    for images in (
        np.zeros((8, 8, 3)),
        np.zeros((1, 3, 8, 8)),
        np.zeros((1, 0, 8, 3)),
        np.zeros((1, 8, 8, 3), np.uint8),
    ):
        for call in (lambda: model.init(jax.random.key(0), images), lambda: model.apply(params, state, images)):  # noqa: B023
            with pytest.raises(InputError, match=r"^inputs: "):
                call()
    images = np.zeros((2, 8, 8, 3), np.float32)
    with pytest.raises(InputError, match=r"^weights: .*\(2,\)"):
        model.apply(params, state, images, train=True, weights=np.ones(3))
    with pytest.raises(InputError, match=r"^state: .*batch_stats"):
        model.apply(params, {}, images)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(4, 4, 3, 1), (3, 5, 3, 2), (1, 2, 7, 2), (9, 6, 3, 2), (6, 8, 3, 2), (8, 10, 7, 2), (5, 6, 1, 1), (5, 6, 1, 2)],
)
def test_convolution_and_its_gradient_are_xlas_on_maps_of_any_size(height, width, size, stride, numbers):
    images, kernel = numbers.normal(size=(2, height, width, 3)), numbers.normal(size=(size, size, 3, 4))

    def reference(images, kernel):
        padding = [(size // 2, size // 2)] * 2
        return lax.conv_general_dilated(
            images, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    ours, pull = jax.vjp(
        functools.partial(layers.convolve, stride=stride, precision=None, products=True), images, kernel
    )
    expected, their_pull = jax.vjp(reference, images, kernel)
    above = numbers.normal(size=expected.shape)
    assert_close((ours, pull(above)), (expected, their_pull(above)), 1e-13)


@pytest.mark.parametrize("size", [(6, 7), (5, 4), (1, 2)])
def test_max_pool_and_its_gradient_on_ties_are_reduce_windows(size, numbers):
    images = numbers.integers(-1, 2, (2, *size, 3)).astype(np.float32)  # nothing but ties

    def reference(images):
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(images, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)

    ours, pull = jax.vjp(layers.max_pool, images)
    theirs, their_pull = jax.vjp(reference, images)
    np.testing.assert_array_equal(ours, theirs)
    above = numbers.integers(1, 100, ours.shape).astype(np.float32)
    np.testing.assert_array_equal(pull(above)[0], their_pull(above)[0])
    images[0, 0, 0, 0] = np.nan
    np.testing.assert_array_equal(layers.max_pool(images), reference(images))


def test_rectifier_by_division_is_the_maximum():
    inputs = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.inf, jnp.nan])
    ours, pull = jax.vjp(functools.partial(layers.rectify, products=True), inputs)
    theirs, their_pull = jax.vjp(jax.nn.relu, inputs)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(pull(inputs + 1)[0][:-2], their_pull(inputs + 1)[0][:-2])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("products", [False, True])
def test_batch_norm_has_the_derivatives_of_its_formula(products, numbers):
    """By every argument, through every result, and twice."""

    def formula(inputs, scale, bias, shares):
        weights = shares[:, None, None, None] / (inputs.shape[1] * inputs.shape[2])
        mean = jnp.sum(weights * inputs, axis=(0, 1, 2))
        variance = jnp.sum(weights * (inputs - mean) ** 2, axis=(0, 1, 2))
        return scale * (inputs - mean) / jnp.sqrt(variance + 1e-3) + bias, mean, variance

    def ours(inputs, scale, bias, shares):
        return layers.batch_norm(inputs, scale, bias, shares, 1e-3, products)

    arguments = (*(numbers.normal(size=shape) for shape in ((3, 4, 5, 2), (2,), (2,))), np.array([0.25, 0.75, 0.0]))
    above = tuple(numbers.normal(size=shape) for shape in ((3, 4, 5, 2), (2,), (2,)))

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(function, arguments):
        def cubes(*values):
            return (function(*values, arguments[3])[0] ** 3).sum()

        results, pull = jax.vjp(function, *arguments)
        return results, pull(above), jax.jvp(jax.grad(cubes, (0, 1, 2)), arguments[:3], above)[1]

    assert_close(derivatives(ours, arguments), derivatives(formula, arguments), 1e-12)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("middle", [0, -900])
def test_batch_norm_is_sound_in_float32_far_from_zero(middle, products, numbers):
    """``E x^2 - (E x)^2`` would lose the variance here; a middle row unlike the others costs a digit of it at most."""
    images = (1000 + numbers.normal(size=(16, 28, 28, 3))).astype(np.float32)
    images[:, 14] += middle
    outputs, mean, variance = layers.batch_norm(images, jnp.ones(3), jnp.zeros(3), jnp.full(16, 1 / 16), 0.0, products)
    wide = images.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, wide.var((0, 1, 2)), rtol=1e-4)
    expected = (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2))
    np.testing.assert_allclose(outputs, expected, atol=2e-3)
