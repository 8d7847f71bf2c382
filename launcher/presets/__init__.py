"""Configurations that come with the program, and the scores that they reach."""
