"""Logistic and Poisson regression: estimates, profile intervals, counts with exposure, and separation that is found.

python examples/04_generalized_linear_models.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer

from jaxmodels import glm
from jaxmodels.core import Status

jax.config.update("jax_enable_x64", True)

# Benign or malignant from two measurements.
cancer = load_breast_cancer()
columns = [0, 1]
x, y = jnp.asarray(cancer.data[:, columns]), jnp.asarray(cancer.target)
solution = glm.fit(x, y, family="bernoulli")
inference = glm.infer(solution, x, y, family="bernoulli")
intervals = glm.profile(solution, x, y, family="bernoulli")
print(f"deviance {inference.deviance:.2f} of {inference.null_deviance:.2f}, AIC {inference.aic:.2f}")
for name, value, (low, high) in zip(
    ["intercept", *cancer.feature_names[columns]], inference.estimate, intervals, strict=True
):
    print(f"  {name}: {value:.3f}, profile interval {low:.3f} to {high:.3f}")

# With all thirty columns, scaled, the classes are separated: no finite estimate, which is said; a penalty mends it.
every = jnp.asarray((cancer.data - cancer.data.mean(0)) / cancer.data.std(0))
for l2 in (0.0, 1.0):
    found = glm.fit(every, y, family="bernoulli", l2=l2)
    print(f"l2 = {l2}: {Status(int(found.status)).name}, deviance {found.stats.deviance:.3f}")

# Counts with an exposure, more variable than Poisson's; the dispersion is estimated.
rng = np.random.default_rng(0)
dose, exposure = rng.uniform(0, 2, 500), rng.uniform(1, 5, 500)
counts = rng.poisson(exposure * np.exp(0.2 + 0.5 * dose) * rng.gamma(2, 0.5, 500))
fit = glm.fit(dose[:, None], counts, family="negative_binomial", offset=np.log(exposure))
print(f"slope {fit.params.coefficients[0]:.3f} (0.5), dispersion {fit.stats.parameter:.3f} (0.5)")
