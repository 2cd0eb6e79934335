"""senna2: the open implementation of Senna-2. See README.md."""

__version__ = "0.1.0"
