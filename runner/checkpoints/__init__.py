"""Checkpoints: this program's files, and skrl's."""
