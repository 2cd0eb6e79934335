"""Recordings and samples: what the models learn from."""
