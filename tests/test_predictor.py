"""A table from file to predictions, against scikit-learn's pipeline on the same rows, and what can go wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from jaxmodels import predictor, split
from jaxmodels.core import InputError
from jaxmodels.data import tables

COLUMNS = "size,colour,rooms,constant,price"


def write_table(path, num_rows=240, seed=0, *, header=COLUMNS, colours=("red", "green", "blue")):
    """A price that depends on size and colour, some cells missing, and a column that says nothing."""
    rng = np.random.default_rng(seed)
    lines = [header]
    for _ in range(num_rows):
        size, colour, rooms = rng.normal(50, 10), rng.choice(colours), rng.integers(1, 6)
        price = 3 * size + {"red": 20, "green": -20}.get(colour, 0) + rng.normal(0, 5)
        cells = [f"{size:.4f}" if rng.uniform() > 0.05 else "?", colour, str(rooms), "7", f"{price:.4f}"]
        lines.append(",".join(cells))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    table = write_table(folder / "houses.csv")
    options = predictor.Options(target="price", model="linear", folds=3)
    return folder, table, options, predictor.fit(table, options, output=folder / "run")


def test_the_report_says_what_a_pipeline_of_scikit_learn_gets(fitted):
    """Median, indicator, scale, one-hot, least squares: the same split, the same held-out R2."""
    compose, impute, pipeline = (pytest.importorskip(f"sklearn.{name}") for name in ("compose", "impute", "pipeline"))
    preprocessing, linear_model = (pytest.importorskip(f"sklearn.{name}") for name in ("preprocessing", "linear_model"))
    pandas = pytest.importorskip("pandas")
    _, path, options, report = fitted
    frame = pandas.read_csv(path, na_values="?")
    parts = split.split(len(frame), test=options.test, seed=options.seed)
    numbers = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="median", add_indicator=True), preprocessing.StandardScaler()
    )
    columns = compose.make_column_transformer(
        (numbers, ["size", "rooms"]), (preprocessing.OneHotEncoder(drop="first"), ["colour"])
    )
    theirs = pipeline.make_pipeline(columns, linear_model.LinearRegression())
    theirs.fit(frame.iloc[parts.training], frame.price.iloc[parts.training])
    held_out = frame.iloc[parts.test]
    np.testing.assert_allclose(report["r2"], theirs.score(held_out, held_out.price), rtol=1e-9)
    low, high = report["r2_interval"]
    assert low < report["r2"] < high
    assert report["num_examples"] == len(parts.test)


def test_coefficients_have_errors_and_importance_finds_the_columns_that_matter(fitted):
    folder, _, _, report = fitted
    by_name = {line["name"]: line for line in report["coefficients"]}
    assert set(by_name) >= {"(intercept)", "size", "rooms", "size is missing"}
    assert by_name["size"]["p_value"] < 1e-10 < by_name["rooms"]["p_value"]
    assert by_name["size"]["low"] < by_name["size"]["estimate"] < by_name["size"]["high"]
    assert next(iter(report["importance"])) == "size"
    assert "constant" not in report["importance"]
    assert {path.name for path in (folder / "run" / "plots").iterdir()} == {"predictions.png", "importance.png"}


def test_predictions_are_those_of_the_run_whatever_the_table_lacks(fitted, tmp_path):
    """New colours, missing sizes, no target, columns in another order."""
    folder, path, _, _ = fitted
    table = tables.read(path)
    whole = [line["prediction"] for line in predictor.predict(folder / "run", path)]
    assert len(whole) == table.num_rows
    errors = np.array(whole) - table.columns["price"]
    assert np.std(errors) < 12
    new = tmp_path / "new.csv"
    new.write_text("rooms,colour,size\n3,purple,50\n3,,\n")
    first, second = predictor.predict(folder / "run", new)
    assert abs(first["prediction"] - 150) < 40
    assert np.isfinite(second["prediction"])
    report, where = predictor.evaluate(folder / "run", path)
    np.testing.assert_allclose(report["root_mean_squared_error"], np.sqrt(np.mean(errors**2)), rtol=1e-9)
    assert (where / "report.json").exists()


def test_held_out_rows_change_nothing_that_was_learned(fitted, tmp_path):
    """Spoil the held-out inputs: config and coefficients stay, to the last bit."""
    _, path, options, report = fitted
    lines = path.read_text().splitlines()
    parts = split.split(len(lines) - 1, test=options.test, seed=options.seed)
    for row in parts.test:
        lines[row + 1] = "99999,orange,77,1,0.5"
    spoiled = tmp_path / "spoiled.csv"
    spoiled.write_text("\n".join(lines) + "\n")
    again = predictor.fit(spoiled, options, output=tmp_path / "run")
    assert again["coefficients"] == report["coefficients"]
    assert again["compared"] == report["compared"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "orange" not in json.dumps(config)


@pytest.mark.slow
def test_classes_are_told_apart_and_all_models_are_compared(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2))
    names = np.where(x[:, 0] + x[:, 1] + rng.normal(size=300) / 3 > 0, "yes", "no")
    path = tmp_path / "answers.csv"
    path.write_text("a,b,answer\n" + "".join(f"{a},{b},{name}\n" for (a, b), name in zip(x, names, strict=True)))
    report = predictor.fit(path, predictor.Options(target="answer", folds=2, epochs=30), output=tmp_path / "run")
    assert set(report["compared"]) == {"glm", "elastic_net", "mlp"}
    assert report["accuracy"] > 0.85
    lines = list(predictor.predict(tmp_path / "run", path))
    assert np.mean([line["label"] == name for line, name in zip(lines, names, strict=True)]) > 0.85
    assert abs(sum(lines[0]["probabilities"].values()) - 1) < 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "prize"}, "target: "),
        ({"target": "price", "model": "forest"}, "model: 'forest' is none of linear, elastic_net, glm, mlp"),
        ({"target": "colour", "model": "linear"}, "model: linear does not go with 3 classes; try glm"),
        ({"target": "constant"}, "target: 'constant' has the same value in every row"),
        ({"target": "price", "drop": ("garden",)}, "drop: "),
        ({"target": "price", "drop": ("price",)}, "drop: 'price' is the target"),
        ({"target": "price", "family": "gamma"}, "family: 'gamma' does not admit"),
        ({"target": "colour", "family": "poisson"}, "family: 'poisson' is for numbers"),
        ({"target": "price", "test": 1.5}, "test: needs a share"),
        ({"target": "price", "folds": 1}, "folds: needs 2 or more"),
        ({"target": "price", "group": "colour", "time": "rooms"}, "group, time: give one"),
        ({"target": "price", "drop": ("size", "colour", "rooms")}, "table: no column besides the target varies"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(tmp_path, options, message):
    table = write_table(tmp_path / "t.csv", 30)
    table.write_text(table.read_text().replace("\n", "\n", 1) + "50,red,1,7,-1\n")
    with pytest.raises(InputError) as caught:
        predictor.fit(table, predictor.Options(**options), output=tmp_path / "run")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (["", "", "", ""], {}, "target: 'y' has 0 values; give 10 or more"),
        (["1", "2", "3", "4"], {"test": 0.001}, "test: a share of 0.001 holds 0 rows out"),
        (["1", "2", "3", "4"], {"drop": ("b",)}, "table: column 'a' holds 1e+300, which cannot be squared"),
        (["1", "2", "3", "4"], {"time": "b"}, "time: column 'b' is missing in 10 rows"),
        (["1", "2", "3", "4"], {"group": "c", "drop": ("a",), "folds": 3}, "test: a share of 0.2 holds 0 rows out"),
    ],
)
def test_hostile_tables_are_told_in_a_line(tmp_path, cells, options, message):
    lines = [f"{['1e300', '2'][row % 2]},{'' if row % 4 == 1 else row},{row % 2},{cells[row % 4]}" for row in range(40)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b,c,y", *lines]) + "\n")
    with pytest.raises(InputError, match=re.escape(message)):
        predictor.fit(path, predictor.Options(target="y", model="linear", **options), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_predicting_without_a_column_or_with_words_for_numbers_is_told(fitted, tmp_path):
    folder, _, _, _ = fitted
    for content, message in (
        ("rooms,colour\n3,red\n", "table: has no column 'size'"),
        ("rooms,colour,size\n3,red,big\n4,red,small\n", "table: column 'size' holds words, the first 'big'"),
    ):
        path = tmp_path / "new.csv"
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            list(predictor.predict(folder / "run", path))


@pytest.mark.slow
def test_the_commands_fit_predict_and_evaluate(fitted):
    folder, path, _, report = fitted

    def run(*arguments):
        command = [sys.executable, "-m", "jaxmodels", *map(str, arguments)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    out = run("fit", path, "--target", "price", "--model", "linear", "--folds", "3", "--output", folder / "again")
    assert json.loads(out)["r2"] == report["r2"]
    lines = run("predict", folder / "again", path).splitlines()
    assert json.loads(lines[0]).keys() == {"row", "prediction"}
    assert json.loads(run("evaluate", folder / "again", path))["r2"] > 0.9


def test_an_interrupt_ends_with_its_code_and_without_tear_down():
    """jaxlib's tear-down crashed where a compilation was interrupted; what was printed before must not be lost."""
    program = """
import atexit
from jaxmodels import cli, commands
def run():
    atexit.register(print, "torn down")
    print("a line before")
    raise KeyboardInterrupt
commands.run = run
cli.main()
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (130, "a line before\n", "jaxmodels: interrupted\n")
