"""Environments of Python by name: what may be imported, what is called."""
