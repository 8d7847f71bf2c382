"""Sunflower."""
