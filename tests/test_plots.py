"""Every plot, for inputs that break plots: one epoch, a thousand classes, names that are formulas, nothing at all."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from jaxmodels import evaluate, plots
from jaxmodels.core import InputError
from jaxmodels.plots.figure import one_line, short_number

image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    """Among them: a layout that collapsed, a NaN that was drawn, a glyph that is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def ink(path) -> float:
    """Share of the picture that is not white; its border must be white, or something was cut off."""
    with image.open(path) as picture:
        assert picture.format == "PNG"
        dark = np.asarray(picture.convert("L")) < 250
    border = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
    assert not border.any()
    return float(dark.mean())


def history(epochs: int, every: int = 1):
    for epoch in range(1, epochs + 1):
        line = {"epoch": epoch, "step": 31 * epoch, "train_loss": 1 / epoch, "seconds": 2.0}
        yield line | ({"val_loss": 1.2 / epoch, "val_accuracy": 1 - 0.5 / epoch} if epoch % every == 0 else {})


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_learning_curve(tmp_path, epochs):
    path = tmp_path / "made" / "curve.png"
    assert plots.learning_curve(list(history(epochs)), path) == path
    assert ink(path) > 0.01
    assert os.listdir(path.parent) == ["curve.png"]


def test_learning_curve_of_gaps_and_steps(tmp_path):
    """Values absent, null or not finite, lines of steps, an epoch written twice."""
    lines = [
        {"step": 1, "loss": 3.0},
        *history(6, every=3),
        {"epoch": 6, "train_loss": 0.1},
        {"epoch": 7, "train_loss": None, "val_loss": float("nan")},
        {"epoch": 8, "train_note": "text", "val_done": True},
    ]
    assert ink(plots.learning_curve(lines, tmp_path / "curve.png")) > 0.01
    for nothing in ([], [{"step": 1, "train_loss": 1.0}], [{"epoch": 1, "seconds": 3.0}]):
        with pytest.raises(InputError, match="nothing to draw"):
            plots.learning_curve(nothing, tmp_path / "none.png")


NAMES = ["$x_1", "日本語のとても長い名前" * 3, "naïve\ncafé", "\udcff\x07", "", "a" * 300, "_{}^", "🐕"]


@pytest.fixture(scope="module")
def reports():
    random = np.random.default_rng(0)
    found = {}
    for num_classes in (2, 8, 150):
        rows = max(4 * num_classes, 60)
        labels = random.integers(0, num_classes, rows)
        labels[labels == 7] = 6  # an empty class
        logits = random.normal(size=(rows, num_classes)) + 3 * np.eye(num_classes)[labels]
        names = (NAMES * 20)[:num_classes]
        found[num_classes] = evaluate.classification_report(logits, labels, classes=names)
    return found


@pytest.mark.parametrize("name", ["roc", "precision_recall", "confusion_matrix", "calibration"])
@pytest.mark.parametrize("num_classes", [2, 8, 150])
def test_reports(tmp_path, reports, name, num_classes):
    path = getattr(plots, name)(reports[num_classes], tmp_path / f"{name}.png")
    assert ink(path) > 0.01
    with image.open(path) as picture:
        assert max(picture.size) < 1600


@pytest.mark.parametrize("size", [20, 21, 60, 1000])
def test_confusion_matrix_of_many_classes(tmp_path, size):
    matrix = np.diag(np.full(size, 3_000_000.5))
    matrix[5, 19] = 2
    report = {"confusion_matrix": matrix.tolist(), "classes": [f"class {i}" for i in range(size)]}
    assert ink(plots.confusion_matrix(report, tmp_path / "matrix.png")) > 0.01


def test_report_of_one_class_and_of_no_mistake(tmp_path):
    """Areas are null, and the pictures say so."""
    report = evaluate.classification_report(np.array([3.0, 2.0]), np.array([1, 1]), classes=["no", "yes"])
    for name in ("roc", "precision_recall", "confusion_matrix", "calibration"):
        assert ink(getattr(plots, name)(report, tmp_path / f"{name}.png")) > 0.01


@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_mistakes(tmp_path, count):
    random = np.random.default_rng(0)
    shapes = [(40, 60, 3), (64, 20), (32, 32, 1), (5, 5, 4)]
    images = [random.random(shapes[i % 4]).astype(np.float32) for i in range(count)]
    images = [np.uint8(255 * each) if i % 3 else each for i, each in enumerate(images)]
    path = plots.mistakes(images, [f"is {NAMES[i % 8]}\nseen as $y$" for i in range(count)], tmp_path / "sheet.png")
    assert ink(path) > (0.2 if count else 0.001)


def test_uint8_and_float_images_are_one(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    first = plots.mistakes([pixels], ["x"], tmp_path / "a.png").read_bytes()
    assert plots.mistakes([pixels / np.float32(255)], ["x"], tmp_path / "b.png").read_bytes() == first


@pytest.mark.parametrize("rows", [1, 2, 5000])
def test_regression(tmp_path, rows):
    actual = np.random.default_rng(0).normal(size=rows)
    path = plots.regression(actual[:, None] + 0.1, actual, tmp_path / "fit.png", name="mass_$", unit="kg $m^2$")
    assert ink(path) > 0.01
    actual[0] = np.nan
    if rows == 1:
        with pytest.raises(InputError, match="both are finite"):
            plots.regression(actual, actual, tmp_path / "none.png")
    else:
        plots.regression(actual, actual, tmp_path / "fit.png")


@pytest.mark.parametrize("axes", [1, 6])
def test_growth(tmp_path, axes):
    line = {"seconds": 0.1, "roofline_seconds": None, "compile_seconds": 1.0, "program_bytes": 1e6}
    lines = [line | {"axis": f"axis $_{{{axis}", "size": size} for axis in range(axes) for size in (1, 1000)]
    assert ink(plots.growth(lines, tmp_path / "growth.png")) > 0.01


def test_importance(tmp_path):
    values = {f"column $_{{{place}": {"mean": 1 / (place + 1), "deviation": 0.1} for place in range(40)}
    assert ink(plots.importance(values, tmp_path / "importance.png")) > 0.01
    with pytest.raises(InputError, match="values: no column"):
        plots.importance({}, tmp_path / "importance.png")


def test_a_failed_plot_leaves_the_old_one(tmp_path):
    path = plots.regression([1.0, 2.0], [1.0, 3.0], tmp_path / "fit.png")
    before = path.read_bytes()
    with pytest.raises(InputError, match="one column"):
        plots.regression(np.zeros((2, 2)), np.zeros((2, 2)), path)
    assert path.read_bytes() == before
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        plots.regression([1.0], [1.0], tmp_path / "file" / "fit.png")
    with pytest.raises(InputError, match=r"end in \.png"):
        plots.regression([1.0], [1.0], tmp_path / "fit.pdf")
    assert sorted(os.listdir(tmp_path)) == ["file", "fit.png"]


def test_wrong_images_are_named(tmp_path):
    with pytest.raises(InputError, match="titles"):
        plots.mistakes([np.zeros((2, 2))], [], tmp_path / "a.png")
    with pytest.raises(InputError, match=r"images\[1\]"):
        plots.mistakes([np.zeros((2, 2)), np.zeros((2, 2, 2))], ["", ""], tmp_path / "a.png")
    with pytest.raises(InputError, match="at most 400"):
        plots.mistakes([np.zeros((2, 2))] * 401, [""] * 401, tmp_path / "a.png")


def test_no_pyplot_and_no_matplotlib_before_it_is_needed(tmp_path):
    code = (
        "import sys; from jaxmodels import plots; assert 'matplotlib' not in sys.modules\n"
        f"plots.regression([1.0], [2.0], {str(tmp_path / 'fit.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "import matplotlib; assert matplotlib.rcParams['axes.grid'] is False\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'jaxmodels\[plots\]'"):
        plots.regression([1.0], [2.0], tmp_path / "fit.png")


def test_names_fit():
    assert one_line("a\tb\nc", 10) == "a b c"
    assert one_line("abcdefgh", 5) == "abcd…"
    assert one_line("日本語の名前", 7) == "日本語…"
    assert one_line("$5", 5) == r"\$5"
    assert [short_number(value) for value in (3.0, 0.12345, 1234567.0, 2e-7)] == ["3", "0.123", "1.23e+06", "2e-07"]
