"""Every example runs, in its quick form, and prints what it promises."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_every_example_is_tested():
    text = pathlib.Path(__file__).read_text()
    assert all(path.name in text for path in EXAMPLES.glob("*.py"))


def test_photographs(data_dir, tmp_path):
    for split, every in (("train", 12), ("val", 12)):
        for folder in (data_dir / "images" / "hymenoptera" / split).iterdir():
            (tmp_path / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[::every]:
                (tmp_path / split / folder.name / path.name).symlink_to(path)
    out = run("01_photographs.py", tmp_path, data_dir / "weights" / "resnet50_augnet.pth", 64)
    assert re.search(r"accuracy \d\.\d+, ROC AUC \d\.\d+ on 13 photographs", out)


def test_own_loop():
    pytest.importorskip("sklearn")
    out = run("02_own_loop.py", 1)
    assert re.findall(r"(\w+): held-out accuracy (\d\.\d+)", out)[0][0] == "perceptron"
    assert "resnet18: held-out accuracy" in out


def test_linear_regression():
    pytest.importorskip("sklearn")
    out = run("03_linear_regression.py", 50)
    assert "R-squared 0.5177, adjusted 0.5066, F(10, 431) = 64.61" in out
    before, after = re.search(r"held-out error (\S+), with a learned penalty a feature (\S+)", out).groups()
    assert float(after) < float(before)
    assert float(re.search(r"difference of the streamed fit: (\S+)", out)[1]) < 1e-11


def test_generalized_linear_models():
    pytest.importorskip("sklearn")
    out = run("04_generalized_linear_models.py")
    assert "l2 = 0.0: separated" in out
    assert "l2 = 1.0: ok" in out
    assert abs(float(re.search(r"slope (\S+) ", out)[1]) - 0.5) < 0.15


def test_other_libraries():
    pytest.importorskip("sklearn")
    pytest.importorskip("equinox")
    out = run("08_other_libraries.py", 10)
    reached = dict(re.findall(r"(\w+): held-out accuracy (\d\.\d+)", out))
    assert set(reached) == {"jaxmodels", "linen", "nnx", "equinox"}
    assert all(float(accuracy) > 0.93 for accuracy in reached.values())


def test_nonlinear_regression():
    out = run("05_nonlinear_regression.py")
    low, high = map(float, re.search(r"interval (\d\.\d+) to (\d\.\d+)", out).groups())
    assert low < 0.866 < high
    assert abs(float(re.search(r"cauchy: rate (\d\.\d+)", out)[1]) - 0.8) < 0.1
    assert "200 curves: 200 converged" in out


def test_tables(tmp_path):
    pytest.importorskip("sklearn")
    out = run("06_tables.py", tmp_path)
    for name in ("logistic regression", "perceptron"):
        assert float(re.search(rf"{name}: accuracy (\d\.\d+)", out)[1]) > 0.93
    assert "predictor: elastic_net" in out


def test_elastic_net():
    out = run("07_elastic_net.py", 20)
    assert "smallest loss: l1_ratio" in out
    assert re.search(r"one standard error: .*\n  columns \[0, 1, 2, 3, 4", out)
    assert float(re.search(r"d alpha = (\S+)", out)[1]) < 0
