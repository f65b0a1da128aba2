"""Numerical methods that know no model: factorisations, refinement and solvers on plain arrays."""
