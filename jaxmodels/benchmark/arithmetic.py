"""Multiplications and additions of the kernels that do most of a program's arithmetic, from their equations.

    2 n m k  for a product;  2 for each pair of an output and an input that a convolution's kernel joins

Source: Golub and Van Loan (2013), Matrix computations, sections 3.2, 4.2, 5.2, 8.3 and 8.6, for the factorisations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def dtype_of_products(equation: Any) -> str:
    """What decides the peak rate: the operands' dtype, and "tfloat32" for float32 that asks for no more precision."""
    dtype = getattr(equation.invars[0].aval, "dtype", np.dtype(np.float32))
    name = {"complex64": "float32", "complex128": "float64"}.get(str(dtype), str(dtype))
    if name != "float32" or "precision" not in equation.params:
        return name
    precision = equation.params["precision"]
    first = precision[0] if isinstance(precision, tuple) else precision
    return "float32" if first == jax.lax.Precision.HIGHEST else "tfloat32"


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return _each(equation) * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _each(equation: Any) -> float:
    """Flops of a multiplication and an addition."""
    return 8.0 if np.issubdtype(equation.outvars[0].aval.dtype, np.complexfloating) else 2.0


def _convolution(equation: Any) -> float:
    """Products with padding and with the holes of a dilated operand are not counted: no good kernel does them."""
    numbers, parameters = equation.params["dimension_numbers"], equation.params
    inputs, kernel = (variable.aval.shape for variable in equation.invars)
    outputs = equation.outvars[0].aval.shape
    pairs = math.prod(
        _pairs(
            inputs[numbers.lhs_spec[2 + axis]],
            kernel[numbers.rhs_spec[2 + axis]],
            outputs[numbers.out_spec[2 + axis]],
            parameters["window_strides"][axis],
            parameters["padding"][axis][0],
            parameters["lhs_dilation"][axis],
            parameters["rhs_dilation"][axis],
        )
        for axis in range(len(parameters["window_strides"]))
    )
    channels = kernel[numbers.rhs_spec[1]]  # of a group
    # With batch groups (a grouped convolution's gradient) an output meets the images of its own group alone.
    return _each(equation) * outputs[numbers.out_spec[0]] * outputs[numbers.out_spec[1]] * channels * pairs


def _pairs(inputs: int, kernel: int, outputs: int, stride: int, padding: int, spread: int, holes: int) -> int:
    """Of output and kernel positions along one axis, those that meet an input."""
    places = np.arange(outputs)[:, None] * stride + np.arange(kernel) * holes - padding
    return int(np.sum((places >= 0) & (places % spread == 0) & (places <= (inputs - 1) * spread)))


def _factorisation(long: float, short: float) -> Callable[[Any], float]:
    """``long m n^2 + short n^3`` for ``[m, n]`` with ``m >= n``, or its transpose; a batch of them."""

    def flops(equation: Any) -> float:
        *batch, rows, columns = equation.invars[0].aval.shape
        most, least = max(rows, columns), min(rows, columns)
        return math.prod(batch) * (long * most * least**2 + short * least**3)

    return flops


def _triangular_solve(equation: Any) -> float:
    return float(equation.outvars[0].aval.size * equation.invars[0].aval.shape[-1])


FLOPS: dict[str, Callable[[Any], float]] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "cholesky": _factorisation(0, 1 / 3),
    "lu": _factorisation(1, -1 / 3),
    "qr": _factorisation(4, -4 / 3),  # the triangle and the orthogonal factor
    "geqrf": _factorisation(2, -2 / 3),
    "householder_product": _factorisation(2, -2 / 3),
    "eigh": _factorisation(0, 9),
    "svd": _factorisation(6, 20),
    "triangular_solve": _triangular_solve,
}
"""Primitive -> flops of its equation."""
