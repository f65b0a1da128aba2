"""A folder of photographs to predictions, with the loop in your own hands.

The head of a ResNet50 with published weights is trained on features that are computed once. On 245 photographs of ants
and bees and self-supervised weights (AugNet): one minute on two CPU cores.

    python examples/01_photographs.py photos/ resnet50.pth
"""

import sys

import jax
import numpy as np
import optax

from jaxmodels import data, evaluate, losses, pretrained, resnet, train, transfer
from jaxmodels.core import chain, stateless

FOLDER, WEIGHTS = sys.argv[1:3]
IMAGE_SIZE = int(sys.argv[3]) if len(sys.argv) > 3 else 224
BATCH_SIZE, NUM_EPOCHS, LEARNING_RATE = 8, 60, 1e-3


def features(predict, folder):
    """Pooled features and labels of a folder, in order."""
    batches = data.batches(folder, batch_size=BATCH_SIZE, image_size=IMAGE_SIZE, shuffle=False)
    return evaluate.collect(predict, batches)


training, validation = (data.check(folder)[0] for folder in data.read_folder(FOLDER))
backbone, params, state, preprocess = pretrained.load(WEIGHTS, model="resnet50", num_classes=0)
extract = resnet.inference(chain(stateless(preprocess), backbone), ((), params), ({}, state))
seen, held_out = features(extract, training), features(extract, validation)

head = chain(
    transfer.standardize(*transfer.moments(seen.outputs)), transfer.head("linear", num_classes=len(training.classes))
)
trainer = train.trainer(head, loss=losses.softmax_cross_entropy, optimizer=optax.adam(LEARNING_RATE))
state = None
for epoch in range(NUM_EPOCHS):
    batches = data.array_batches(seen.outputs, seen.targets, batch_size=BATCH_SIZE, epoch=epoch)
    for batch in batches:
        state = trainer.init(jax.random.key(0), batch) if state is None else state
        state, info = trainer.step(state, batch)

assert state is not None
logits = np.asarray(resnet.inference(head, state.params, state.state)(held_out.outputs))
report = evaluate.classification_report(logits, held_out.targets, classes=training.classes)
print(f"accuracy {report['accuracy']:.3f}, ROC AUC {report['roc_auc']:.3f} on {report['num_examples']} photographs")
