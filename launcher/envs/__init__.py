"""Environments, as the verbs `launch envs` and `launch check` show them."""
