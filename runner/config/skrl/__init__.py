"""Configurations of every skrl era, read as the canonical one."""
