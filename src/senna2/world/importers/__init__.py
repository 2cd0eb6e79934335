"""Readers of recorded logs. Each turns one vendor's layout into the same plain `RecordedLog`."""
