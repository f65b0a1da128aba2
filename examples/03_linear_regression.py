"""What a regression says and how sure it is: standard errors, robust ones, a bootstrap, a penalty learned by descent,
and ten thousand fits in one call, on scikit-learn's diabetes data.

    python examples/03_linear_regression.py
"""

import sys

import jax
import jax.numpy as jnp
from sklearn.datasets import load_diabetes

from jaxmodels import linear, resampling, streaming

NUM_FITS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000

jax.config.update("jax_enable_x64", True)
diabetes = load_diabetes(scaled=False)
x, y, names = jnp.asarray(diabetes.data), jnp.asarray(diabetes.target), diabetes.feature_names
training, held_out = slice(0, 300), slice(300, None)

solution = linear.fit(x, y)
print(linear.summary(linear.infer(solution, x, y, covariance="HC3"), names=names))

draws = resampling.bootstrap(jax.random.key(0), x, y, num_samples=2000)
low, high = draws.bca_interval[1 + names.index("bmi")]
print(f"\nbmi, bias-corrected bootstrap interval: {low:.2f} to {high:.2f}")

# A fit is differentiable: descend on the held-out error in the logarithm of a penalty for each feature.
scale = x.std(axis=0)


def held_out_error(log_l2):
    params = linear.fit(x[training] / scale, y[training], l2=jnp.exp(log_l2)).params
    return jnp.mean((linear.predict(params, x[held_out] / scale) - y[held_out]) ** 2)


log_l2 = jnp.zeros(x.shape[1])
descend = jax.jit(jax.value_and_grad(held_out_error))
for _ in range(50):
    error, slope = descend(log_l2)
    log_l2 = log_l2 - 0.05 * slope
print(f"held-out error {held_out_error(jnp.zeros_like(log_l2)):.1f}, with a learned penalty a feature {error:.1f}")

# Many at once: a fit for each of many random halves of the rows.
masks = jax.random.bernoulli(jax.random.key(1), 0.5, (NUM_FITS, len(y)))
many = jax.jit(jax.vmap(lambda mask: linear.fit(x, y, mask=mask)))(masks)
slopes = many.params.coefficients[:, 2]
print(f"bmi in {NUM_FITS} random halves: {slopes.mean():.2f} +- {slopes.std():.2f}")

# The same from blocks of rows that never stand in memory together.
blocks = ((x[start : start + 100], y[start : start + 100]) for start in range(0, len(y), 100))
streamed = streaming.solve(streaming.accumulate(streaming.init(x.shape[1]), blocks, num_rows=100))
difference = jnp.abs(streamed.params.coefficients - solution.params.coefficients).max()
print(f"largest difference of the streamed fit: {difference:.0e}")
