"""Neural networks as ``Model``s: perceptrons and residual networks."""
