"""The state of launches, for people and programs."""
