"""Pure functions on the device, between the data and the model."""
