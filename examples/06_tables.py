"""A table with holes to a model: preprocessing that learns from the training rows alone, as pure functions.

Scikit-learn's breast cancer table, a twentieth of its cells taken out, written as a CSV file. Logistic regression and a
perceptron see the same preprocessed columns; ``predictor.fit`` then does all of it, and a report, in one call. 20 s,
most of it compilation.

    python examples/06_tables.py [folder]
"""

import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from jaxmodels import epochs, evaluate, glm, losses, mlp, predictor, split, tables, tabular, train
from jaxmodels.core import Batch, chain, stateless

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
MISSING, NUM_EPOCHS = 0.05, 60

# The file, as somebody would send it.
source = datasets.load_breast_cancer()
rng = np.random.default_rng(0)
cells = np.where(rng.random(source.data.shape) < MISSING, "NA", source.data.astype(str))
names = [*(name.replace(" ", "_") for name in source.feature_names), "diagnosis"]
rows = [names, *([*row, source.target_names[label]] for row, label in zip(cells, source.target, strict=True))]
path = FOLDER / "tumours.csv"
path.write_text("\n".join(",".join(row) for row in rows) + "\n")

# Read: types are inferred, NA is missing; the split keeps the shares of both diagnoses.
table = tables.read(path)
labels = (table.columns["diagnosis"] == "malignant").astype(np.int32)
x = np.stack([table.columns[name] for name in names[:-1]], axis=1).astype(np.float32)
parts = split.split(table.num_rows, test=0.25, labels=labels)
training, held_out = split.masks((parts.training, parts.test), table.num_rows)

# Learn from the training rows: the others could hold anything.
clean = tabular.chain(tabular.clip(0.005, 0.995), tabular.impute("median"), tabular.scale("standard"))
stats = clean.fit(x, training)
spoiled = clean.fit(np.where(training[:, None], x, np.inf), training)
assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), stats, spoiled))
inputs = jax.jit(clean.apply)(stats, x)


def report(name, outputs):
    found = evaluate.classification_report(np.asarray(outputs), labels[held_out], classes=["benign", "malignant"])
    low, high = found["accuracy_interval"]
    print(f"{name}: accuracy {found['accuracy']:.3f} ({low:.3f} to {high:.3f}), ROC AUC {found['roc_auc']:.3f}")


logistic = glm.fit(inputs[training], labels[training], family="bernoulli", l2=1.0)
report("logistic regression", glm.predict(logistic.params, inputs[held_out], family="bernoulli", scale="linear"))

# A perceptron with the preprocessing in front of it: one model, which takes rows as they come from the file.
network = chain(stateless(lambda x: clean.apply(stats, x)), mlp.model(hidden_sizes=(32,), num_outputs=0))
trainer = train.trainer(network, loss=losses.sigmoid_cross_entropy, optimizer=optax.adamw(3e-3, weight_decay=1e-2))
examples = Batch(x[training], labels[training])
state = trainer.init(jax.random.key(0), examples)
trained = epochs.fit(trainer, state, examples, batch_size=32, num_epochs=NUM_EPOCHS).state
report("perceptron", network.apply(trained.params, trained.state, x[held_out])[0])

# Or all of it in one call, which leaves a model to predict with, coefficients with errors, importances and pictures.
found = predictor.fit(path, predictor.Options(target="diagnosis", model="elastic_net"), output=FOLDER / "run")
print(
    f"predictor: {found['model']}, accuracy {found['accuracy']:.3f}, most important {next(iter(found['importance']))}"
)
