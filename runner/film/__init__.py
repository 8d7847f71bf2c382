"""Policies at play, filmed."""
