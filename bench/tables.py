"""Are the models that ``jaxmodels fit`` leaves as good as scikit-learn's pipelines of the same kind, on the same rows?

    python bench/tables.py [FOLDER] [--models linear elastic_net glm mlp] [--sets california adult ...]

FOLDER holds the six tables: California housing, adult, auto-mpg, Ames housing, concrete and red wine. One JSON line a
table and model: the held-out score of both (R2, or accuracy), ours less theirs, and the seconds each took. Both see the
same split; scikit-learn gets the same columns by SimpleImputer, StandardScaler and OneHotEncoder, and the same folds
where a penalty is chosen.

Last run, scikit-learn 1.9.1, ours less theirs. linear: 0.000, Ames 0.001; elastic_net: California 0.000, Ames -0.003,
concrete 0.000; glm: adult 0.000; mlp: California 0.000, adult 0.001, auto-mpg and Ames 0.028, concrete 0.008, wine
0.004.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
import time
import warnings
from typing import Any

import numpy as np
import pandas
from sklearn import compose, impute, linear_model, neural_network, pipeline, preprocessing

from jaxmodels import predictor, split
from jaxmodels.data import tables

SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "california": ("california_housing.csv", {"target": "median_house_value"}),
    "adult": ("adult-train.csv", {"target": "column_15"}),
    "auto-mpg": ("auto-mpg.data", {"target": "mpg", "drop": ("car_name",), "categories": ("origin",)}),
    "ames": ("AmesHousing.csv", {"target": "SalePrice", "drop": ("Order", "PID")}),
    "concrete": ("Concrete_Data.csv", {"target": "Concrete compressive strength"}),
    "wine": ("winequality-red.csv", {"target": "column_12"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = pathlib.Path(os.environ.get("JAXMODELS_TEST_DATA", "../shared/data"))
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=data / "tabular")
    parser.add_argument("--models", nargs="+", default=["linear", "elastic_net", "glm", "mlp"])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in options.sets:
        file, flags = SETS[name]
        classes = name == "adult"
        for model in options.models:
            if model != ("linear" if classes else "glm"):  # one of the two: of a gaussian they are the same
                line = {"table": name, "model": model} | compare(options.folder / file, model, flags)
                print(json.dumps(line), flush=True)


def compare(path: pathlib.Path, model: str, flags: dict[str, Any]) -> dict[str, Any]:
    # Folds choose between models, of which there is one here; an elastic net chooses its penalty by them.
    options = predictor.Options(model=model, folds=5 if model == "elastic_net" else 2, **flags)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = predictor.fit(path, options, output=pathlib.Path(folder) / "run")
    ours, our_seconds = report["r2"] if "r2" in report else report["accuracy"], time.perf_counter() - start
    start = time.perf_counter()
    theirs = their_score(path, options)
    return {
        "ours": round(ours, 5),
        "scikit-learn": round(theirs, 5),
        "difference": round(ours - theirs, 5),
        "remark": report["remark"],
        "seconds": [round(our_seconds, 1), round(time.perf_counter() - start, 1)],
    }


def their_score(path: pathlib.Path, options: predictor.Options) -> float:
    columns = tables.read(path, categories=options.categories).columns
    frame = pandas.DataFrame(columns).drop(columns=list(options.drop))
    target = frame.pop(options.target).to_numpy()
    classes = target.dtype == object
    by = {"labels": np.unique(target, return_inverse=True)[1]} if classes else {}
    parts = split.split(len(target), test=options.test, seed=options.seed, **by)
    numbers = [name for name in frame if frame[name].dtype.kind == "f"]
    words = [name for name in frame if name not in numbers]
    frame[words] = frame[words].fillna("(missing)")
    inputs = compose.make_column_transformer(
        (
            pipeline.make_pipeline(
                impute.SimpleImputer(strategy="median", add_indicator=True), preprocessing.StandardScaler()
            ),
            numbers,
        ),
        (
            preprocessing.OneHotEncoder(
                handle_unknown="ignore", max_categories=options.max_categories, sparse_output=False
            ),
            words,
        ),
    )
    theirs = pipeline.make_pipeline(inputs, estimator(options, len(parts.training), classes=classes))
    theirs.fit(frame.iloc[parts.training], target[parts.training])
    return float(theirs.score(frame.iloc[parts.test], target[parts.test]))


def estimator(options: predictor.Options, num_rows: int, *, classes: bool) -> Any:
    if options.model == "mlp":
        flags = {"early_stopping": True, "n_iter_no_change": 20, "validation_fraction": 0.15}
        flags |= {"hidden_layer_sizes": options.hidden_sizes, "batch_size": 256, "max_iter": options.epochs}
        if classes:
            return neural_network.MLPClassifier(**flags, random_state=0)
        return compose.TransformedTargetRegressor(
            neural_network.MLPRegressor(**flags, random_state=0), transformer=preprocessing.StandardScaler()
        )
    if options.model == "elastic_net":
        fold = split.k_fold(num_rows, options.folds, seed=options.seed)
        folds = [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in range(options.folds)]
        if classes:
            return linear_model.LogisticRegressionCV(
                solver="saga", l1_ratios=(0.1, 0.5, 1.0), Cs=5, cv=folds, max_iter=200, use_legacy_attributes=False
            )
        return linear_model.ElasticNetCV(l1_ratio=[0.1, 0.5, 1.0], cv=folds, alphas=50)
    if options.model == "glm":
        return linear_model.LogisticRegression(C=np.inf, max_iter=1000)
    return linear_model.LinearRegression()


if __name__ == "__main__":
    main()
