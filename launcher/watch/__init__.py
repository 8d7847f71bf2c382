"""How launches stand, for people and programs."""
