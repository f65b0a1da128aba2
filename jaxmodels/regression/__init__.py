"""Regression: linear, generalised linear, sparse and nonlinear models, and what is inferred from them."""
