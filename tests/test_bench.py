"""``jaxmodels estimate`` and ``bench``: predictions against closed forms and XLA, questions, and their comparison."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import optax
import pytest

from jaxmodels import cli, losses, mlp, train
from jaxmodels.benchmark import compare, count, devices, questions
from jaxmodels.benchmark.estimate import estimate
from jaxmodels.core import Batch, InputError

DATA = np.random.default_rng(0).normal(size=(50, 50)).astype(np.float32)


@pytest.fixture
def run(monkeypatch, capsys):
    """``run("bench", ...)``: exit code, lines of JSON, what stderr says."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["jaxmodels", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        out, err = capsys.readouterr()
        return exit.value.code or 0, [json.loads(line) for line in out.splitlines()], err

    return run


def test_estimate_of_inference_and_training(run):
    small, large = (estimate("resnet18", batch=n, image=64, device="h100", train=False) for n in (4, 8))
    assert small.parameters == 11_689_512  # torchvision's documentation
    assert large.flops == 2 * small.flops
    peaks = devices.find("h100")
    # No faster than either limit alone, and no slower than one after the other.
    limits = large.flops / peaks.rate("tfloat32"), large.bytes / peaks.bandwidth
    assert max(limits) <= large.seconds <= sum(limits)
    code, [found], err = run("estimate", "resnet18", "--batch", 8, "--image", 64, "--device", "h100")
    assert code == 0
    assert 2.7 < found["flops"] / large.flops < 3
    # Parameters and momentum; statistics; a step counter.
    assert found["state_bytes"] == 4 * (2 * small.parameters + 2 * 4800) + 4
    assert found["memory"] > found["state_bytes"]
    assert "training, 8 images of 64 px, float32 on h100: 11.7 M parameters" in err


@pytest.mark.parametrize("donate", [False, True])
def test_estimated_memory_is_what_xla_needs(donate):
    shape = jax.ShapeDtypeStruct
    batch = Batch(shape((512, 32), np.float32), shape((512,), np.float32))
    model = mlp.model(hidden_sizes=(256,) * 4, num_outputs=0)
    trainer = train.trainer(model, loss=losses.squared_error, optimizer=optax.adam(1e-3), donate=donate)
    state = jax.eval_shape(trainer.init, jax.random.key(0), batch)
    found = trainer.step.lower(state, batch).compile().memory_analysis()  # pyright: ignore
    needed = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    needed -= found.alias_size_in_bytes
    assert count(trainer.step, state, batch).memory == pytest.approx(needed, rel=0.35)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet9",), "'resnet9' is not known; those that are: resnet18, resnet34"),
        (("resnet18", "--device", "abacus"), "'abacus' are not known, only those of cpu, b200"),
        (("resnet18", "--dtype", "int8"), "dtype: 'int8' is none of bfloat16"),
        (("resnet18", "--batch", "0"), "batch: needs 1 or more, got 0"),
    ],
)
def test_estimate_says_what_it_knows(run, arguments, message):
    code, lines, err = run("estimate", *arguments)
    assert (code, lines) == (2, [])
    assert message in err


def test_logistic_question_is_the_same_for_all():
    question = questions.logistic()
    ours = jax.jit(question.function)(*question.args)
    for peer in question.peers.values():
        np.testing.assert_allclose(np.ravel(peer()), ours.coefficients, rtol=2e-2)


def product() -> questions.Question:
    return questions.Question(lambda x: x @ x, (DATA,), {"numpy": lambda: DATA @ DATA})


def test_bench_writes_lines_and_compares_them(run, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(questions, "QUESTIONS", {"product": product})
    files = [tmp_path / f"{name}.jsonl" for name in ("before", "after")]
    for file in files:
        code, [line], err = run("bench", "--rounds", 3, "--output", file)
        assert (code, line["name"], line["flops"]) == (0, "product", 2 * 50**3)
        assert "of numpy" in err
        assert compare.read(file) == {"product": line}
    code, changes, _ = run("bench", "compare", *files, "--output", tmp_path / "ratios.png")
    assert [(each["name"], each["peer"]) for each in changes] == [("product", None), ("product", "numpy")]
    assert changes[1]["after"] == compare.read(files[1])["product"]["peers"]["numpy"]["ratio"]
    assert (tmp_path / "ratios.png").stat().st_size > 5_000
    assert run("bench", "product", files[0])[0] == 2
    assert "compare needs two" in run("bench", "compare", files[0])[2]
    assert "'nothing' is not known; those that are: product" in run("bench", "nothing")[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "has no line"), ("{}\n", "line 1 is no measurement"), ("[1]\n", "line 1 is no"), ("no\n", "line 1 is no")],
)
def test_compare_names_the_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "lines.jsonl"
    with pytest.raises(InputError, match="cannot be read"):
        compare.read(path)
    path.write_text(content)
    with pytest.raises(InputError, match=f"{path}.*{message}"):
        compare.read(path)
