"""What is measured, and what is refused."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import benchmark
from jaxmodels.benchmark import devices, turns
from jaxmodels.benchmark.turns import ratio
from jaxmodels.core import InputError

DATA = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    return clock


def taking(clock: Clock, seconds: float, calls: list[str], name: str):
    def call():
        calls.append(name)
        clock.sleep(seconds)
        return name

    return call


def test_turns_are_taken_in_order_and_ratios_are_those_of_the_times(clock):
    calls: list[str] = []
    candidates = {"a": taking(clock, 0.01, calls, "a"), "b": taking(clock, 0.03, calls, "b")}
    timed = benchmark.take_turns(candidates, rounds=4, pause=1.0)
    assert calls == ["a", "b", "a", "b", *["a", "b"] * 4]  # first, warm-up, rounds
    assert timed["b"].result == "b"
    np.testing.assert_allclose(timed["a"].over(timed["b"]), [1 / 3] * 3)
    np.testing.assert_allclose([timed["a"].first_seconds, timed["a"].median], 0.01)


def test_short_calls_are_repeated_in_their_turn(clock):
    calls: list[str] = []
    timed = benchmark.take_turns({"a": taking(clock, 0.005, calls, "a")}, rounds=2, least_seconds=0.042)
    assert len(calls) == 2 + 2 * 9
    np.testing.assert_allclose(timed["a"].median, 0.005)


def test_interval_of_a_ratio_covers_the_truth():
    # Rounds that slow both alike, and noise of each: the interval holds the true ratio about 19 times in 20.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        round_speed, noise = rng.lognormal(0, 1, 15), rng.lognormal(0, 0.1, (2, 15))
        found = ratio(list(0.7 * round_speed * noise[0]), list(round_speed * noise[1]))
        covered += found.low <= 0.7 <= found.high
        assert 0.5 < found.value < 0.9
    assert covered >= 88


def test_measurement_says_what_was_done_where():
    found = benchmark.measure(
        jax.jit(lambda a, b: jnp.sin(a @ b)), DATA, DATA, peers={"numpy": lambda: np.sin(DATA @ DATA)}, name="product"
    )
    np.testing.assert_allclose(found.timing.result, found.peers["numpy"].result, atol=1e-3)
    record = json.loads(found.json_line())
    assert record["flops"] == 2 * 128**3
    assert record["program_bytes"] >= 3 * DATA.nbytes
    assert 0 < record["mfu"] <= record["roofline"]
    assert min(record[f"{stage}_seconds"] for stage in ("trace", "lower", "compile")) > 0
    assert record["peers"]["numpy"]["ratio"] == pytest.approx(found.ratio("numpy").value, rel=1e-3)
    assert record["versions"]["numpy"] == np.__version__
    assert record["peak_memory"] > 10 * 2**20
    assert {"device", "backend", "revision", "date", "machine", "cores"} <= record.keys()


def test_step_that_donates_is_carried_on():
    step = jax.jit(lambda state, x: (state + x, x[0, 0]), donate_argnums=0)
    state = jnp.asarray(DATA)
    found = benchmark.measure(step, state, DATA, carry=lambda args, result: (result[0], args[1]), rounds=3)
    assert len(found.timing.seconds) == 3
    assert not state.is_deleted()


def test_partial_of_a_jitted_function_keeps_its_arguments_out_of_the_program():
    found = benchmark.measure(functools.partial(jax.jit(lambda a, b: a @ b), DATA), DATA[:, :3], rounds=1)
    assert found.work is not None
    assert found.work.program_bytes == pytest.approx(DATA.nbytes + 2 * DATA[:, :3].nbytes, rel=0.1)


@pytest.mark.parametrize(("function", "peers"), [(3, None), (np.sin, [np.cos]), (np.sin, {"cos": 3})])
def test_what_cannot_be_called_is_refused(function, peers):
    with pytest.raises(InputError, match="function, peers: need a function, and name -> function"):
        benchmark.measure(function, DATA, peers=peers)


def test_ratio_to_what_was_not_measured_is_refused():
    found = benchmark.measure(lambda: DATA.sum(), peers={"sort": lambda: np.sort(DATA)}, rounds=1)
    with pytest.raises(InputError, match="peer: got 'torch', measured beside sort"):
        found.ratio("torch")


def test_peer_of_the_same_name_is_refused():
    with pytest.raises(InputError, match="peers: 'sin' is the name of the function itself"):
        benchmark.measure(jnp.sin, DATA, peers={"sin": lambda: np.sin(DATA)})


def test_function_without_arguments_is_called_as_it_is():
    found = benchmark.measure(lambda: DATA.sum(), rounds=2)
    assert found.work is None
    assert found.stages is None
    assert "flops" not in json.loads(found.json_line())


@pytest.mark.parametrize("constant", [np.zeros((8, 8)), {"a": np.ones(5), "b": np.zeros(3)}, np.full(4, 7)])
def test_constant_data_are_refused(constant):
    with pytest.raises(InputError, match=r"args\[1\]: every entry is .* varied data"):
        benchmark.measure(lambda x, y: x, DATA, constant)
    assert benchmark.measure(lambda x, y: x, DATA, constant, rounds=1, allow_constant=True).timing.median > 0


def test_one_array_that_varies_is_enough_and_keys_are_no_data():
    params = {"kernel": DATA, "bias": np.zeros(128)}
    keys = jax.random.split(jax.random.key(0), 3)
    assert benchmark.measure(lambda params, keys: params["kernel"], params, keys, rounds=1).timing.median > 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA B200", "b200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("TPU v3", "v3"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
    ],
)
def test_jax_names_of_devices_are_known(kind, name):
    device = devices.find(kind)
    assert device == devices.find(name)
    # Products never gain from precision, and a byte costs more than a flop.
    assert device.rate("bfloat16") >= device.rate("tfloat32") >= device.rate("float32") >= device.rate("float64") or (
        name == "v100" or name == "t4"
    )
    assert 5 < device.rate("float16") / device.bandwidth < 1000


@pytest.mark.parametrize("kind", ["NVIDIA L40S", "NVIDIA GH200 480GB", "toaster"])
def test_unknown_device_is_not_taken_for_another(kind):
    with pytest.raises(InputError, match="only those of cpu, b200, h200"):
        devices.find(kind)


def test_peaks_of_the_processor_are_measured_once():
    device = devices.find("cpu")
    assert device is devices.find("CPU")
    assert 1e9 < device.rate("float64") < device.rate("float32") < 1e14
    assert 1e8 < device.bandwidth < 1e13
