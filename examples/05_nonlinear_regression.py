"""Nonlinear regression: a decay and its half-life with intervals, wild values, and two hundred curves in one call.

python examples/05_nonlinear_regression.py
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels import nonlinear

jax.config.update("jax_enable_x64", True)


def decay(params, x):
    return params["height"] * jnp.exp(-params["rate"] * x) + params["level"]


rng = np.random.default_rng(0)
x = jnp.linspace(0, 6, 60)
truth = {"height": 3.0, "rate": 0.8, "level": 1.0}
y = decay(truth, x) + 0.05 * rng.normal(size=60)
start = {"height": 1.0, "rate": 1.0, "level": 0.0}

# The half-life, with an interval by the delta method.
solution = nonlinear.fit(decay, start, x, y)
half_life = nonlinear.infer(solution, of=lambda params: jnp.log(2) / params["rate"])
low, high = half_life.confidence_interval
print(f"half-life {half_life.estimate:.3f}, 95% interval {low:.3f} to {high:.3f} ({np.log(2) / 0.8:.3f})")

# Five wild values: least squares follows them, Cauchy's loss does not.
wild = y.at[jnp.arange(5) * 12].add(4.0)
for loss in ("squared", "cauchy"):
    params = nonlinear.fit(decay, start, x, wild, loss=loss, loss_scale=0.1).params
    print(f"{loss}: rate {params['rate']:.3f}, level {params['level']:.3f} (0.8, 1)")

# Many curves; height and level enter linearly, so that only the rate is searched for.
many = jnp.stack([decay(truth | {"rate": rate}, x) for rate in np.linspace(0.3, 3, 200)])
many += 0.05 * rng.normal(size=many.shape)
found = jax.vmap(lambda y: nonlinear.fit(decay, start, x, y, linear=("height", "level")))(many)
error = jnp.abs(found.params["rate"] - jnp.linspace(0.3, 3, 200))
print(
    f"{len(many)} curves: {int((found.status == 0).sum())} converged, median error of the rate {jnp.median(error):.3f}"
)
