"""The three stages of Senna-2 (paper sections 3.3-3.5) over one training loop. Never imports `senna2.evaluate`."""
