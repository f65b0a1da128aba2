"""An inference as text: the table that a statistician expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxmodels.core import InputError
from jaxmodels.regression.sandwich import COVARIANCES

if TYPE_CHECKING:
    from jaxmodels.regression.inference import Inference

_STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"), (0.1, "."))


def summary(inference: Inference, *, names: Sequence[str] | None = None, stars: bool = True) -> str:
    """The fit as a table: R squared, F and information criteria above, a line for each parameter below.

    Args:
      inference: what ``infer`` returned; one lane of a batch (``jax.tree.map(lambda leaf: leaf[i], inference)``).
      names: of the columns of x, or of all parameters, the intercept first; ``x1, x2, ...`` by default.
      stars: mark p-values below 0.001, 0.01, 0.05 and 0.1.

    Returns:
      Lines of text, one table for each output.

    Raises:
      InputError: the names are of another number, or the inference has lanes.

    >>> import jax.numpy as jnp
    >>> from jaxmodels.regression import inference, linear
    >>> x, y = jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([2.0, 1.0, 4.0, 3.0])
    >>> print(summary(inference.infer(linear.fit(x, y), x, y), names=["dose"]))
    Least squares, classical standard errors
    rows 4, residual dof 2, sigma 1.265
    R-squared 0.36, adjusted 0.04, F(1, 2) = 1.125, p = 0.400
    log-likelihood -5.23, AIC 14.46, BIC 13.23
    <BLANKLINE>
                 estimate  std. error  t value  p value  [2.5%,  97.5%]
    (intercept)     1.000       1.549    0.645    0.585  -5.666   7.666
    dose            0.600       0.566    1.061    0.400  -1.834   3.034
    """
    one = jax.tree.map(np.asarray, inference)
    if one.center.ndim != 1:
        raise InputError("inference: has lanes; summarise one, jax.tree.map(lambda leaf: leaf[i], inference)")
    names = _names(one, names)
    if one.estimate.ndim == 1:
        return _table(one, names, stars)
    outputs = [_table(_output(one, j), names, stars) for j in range(one.estimate.shape[1])]
    return "\n\n".join(f"Output {j}\n{text}" for j, text in enumerate(outputs))


def _names(one: Inference, names: Sequence[str] | None) -> list[str]:
    num_columns, num_parameters = one.center.shape[0], one.estimate.shape[0]
    names = [f"x{j + 1}" for j in range(num_columns)] if names is None else [str(name) for name in names]
    if len(names) == num_columns:
        return ["(intercept)"] * (num_parameters - num_columns) + names
    if len(names) != num_parameters:
        raise InputError(f"names: got {len(names)} for {num_columns} columns; give one for each")
    return names


def _output(one: Inference, j: int) -> Inference:
    """The j-th output: columns of the parameters' arrays, rows of the outputs' own."""
    parameters = {"estimate", "standard_error", "statistic", "p_value", "confidence_interval"}
    shared = {"center", "dof", "confidence", "covariance_kind", "num_rows", "residual_dof"}
    shared |= {"f_dof", "denominator_dof"}
    parts = {
        name: leaf[:, j] if name in parameters else leaf[j]
        for name, leaf in one._asdict().items()
        if name not in shared
    }
    return one._replace(**parts)


def _table(one: Inference, names: list[str], stars: bool) -> str:
    tail = 100 * (1 - float(one.confidence)) / 2
    letter = "z" if np.isinf(one.dof) else "t"
    columns = [
        ("estimate", _aligned(one.estimate)),
        ("std. error", _aligned(one.standard_error)),
        (f"{letter} value", [f"{value:.3f}" for value in one.statistic]),
        ("p value", [_p_value(value) for value in one.p_value]),
        (f"[{tail:.3g}%,", _aligned(one.confidence_interval[:, 0])),
        (f"{100 - tail:.3g}%]", _aligned(one.confidence_interval[:, 1])),
    ]
    widths = [max(map(len, [title, *cells])) for title, cells in columns]
    marks = [_mark(value) for value in one.p_value] if stars else [""] * len(names)
    first = max(map(len, names))
    lines = ["  ".join([" " * first, *[title.rjust(width) for (title, _), width in zip(columns, widths, strict=True)]])]
    for row, name in enumerate(names):
        cells = [cells[row].rjust(width) for (_, cells), width in zip(columns, widths, strict=True)]
        lines.append("  ".join([name.ljust(first), *cells, marks[row]]).rstrip())
    if any(marks):
        lines.append("--- " + ", ".join(f"{mark} p < {level:g}" for level, mark in _STARS))
    if np.isnan(one.standard_error).any():
        lines.append("nan: a column that depends on the others, dropped from the fit")
    return "\n".join([*_heading(one), "", *lines])


def _heading(one: Inference) -> list[str]:
    kind = COVARIANCES[int(one.covariance_kind)]
    return [
        f"Least squares, {'HAC' if kind == 'hac' else kind} standard errors",
        f"rows {one.num_rows:.0f}, residual dof {one.residual_dof:.6g}, sigma {np.sqrt(one.sigma2):.4g}",
        f"R-squared {one.r_squared:.4g}, adjusted {one.adjusted_r_squared:.4g}, "
        f"F({one.f_dof:.6g}, {one.denominator_dof:.6g}) = {one.f_statistic:.4g}, p = {_p_value(one.f_p_value)}",
        f"log-likelihood {one.log_likelihood:.2f}, AIC {one.aic:.2f}, BIC {one.bic:.2f}",
    ]


def _aligned(values: Any) -> list[str]:
    """A column with as many decimals as its smallest value needs for three digits; exponents where that is too many."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    smallest, largest = (sizes.min(), sizes.max()) if sizes.size else (1.0, 1.0)
    decimals = max(3, 2 - int(np.floor(np.log10(smallest))))
    style = f".{decimals}f" if decimals <= 7 and largest < 1e7 else ".3e"
    return [f"{value:{style}}" for value in values]


def _p_value(value: Any) -> str:
    if value == 0:
        return f"<{np.finfo(np.asarray(value).dtype).tiny:.0e}"
    return f"{value:.3f}" if value >= 0.001 or np.isnan(value) else f"{value:.2e}"


def _mark(value: float) -> str:
    return next((mark for level, mark in _STARS if value < level), "")
