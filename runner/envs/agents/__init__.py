"""Environments of several agents: each row is an agent's, and agents that learn alone are members of a pack."""
