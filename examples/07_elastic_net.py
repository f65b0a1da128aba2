"""Which of many columns matter? A lasso by cross-validation, in one compiled call, and what the answer hangs on.

400 rows, 60 columns of which 5 matter. Prints the columns found, how far the objective can be from its minimum, and
how the sum of the coefficients moves with alpha; about 15 s, most of it compilation.

    python examples/07_elastic_net.py
"""

import sys

import jax
import jax.numpy as jnp

from jaxmodels import elastic_net

NUM_ALPHAS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
L1_RATIOS = (1.0, 0.8, 0.5)

keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (400, 60)) + jax.random.normal(keys[1], (400, 1))
y = x[:, :5] @ jnp.array([1.0, -1.0, 0.5, -0.5, 0.3]) + jax.random.normal(keys[2], (400,))

# Ten folds, three mixtures and the path: one program.
found = elastic_net.cross_validate(x, y, folds=10, key=jax.random.key(1), num_alphas=NUM_ALPHAS, l1_ratios=L1_RATIOS)
for name, choice in (("smallest loss", found.best), ("one standard error", found.one_standard_error)):
    columns = jnp.flatnonzero(choice.params.coefficients).tolist()
    row, column = choice.index
    print(f"{name}: l1_ratio {choice.l1_ratio:.1f}, alpha {choice.alpha:.3f}, deviance {found.loss[row, column]:.3f}")
    print(f"  columns {columns}, duality gap {found.path.duality_gap[row, column]:.1e}")


# A fit is a function like any other: its derivative with respect to alpha is exact, by the implicit function theorem.
def size(alpha):
    params = elastic_net.fit(x, y, alpha=alpha, l1_ratio=found.best.l1_ratio).params
    return jnp.sum(jnp.abs(params.coefficients))


print(f"d |coefficients| / d alpha = {jax.grad(size)(found.one_standard_error.alpha):.2f}")
