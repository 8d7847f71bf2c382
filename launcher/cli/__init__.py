"""The `launch` command: verbs, flags, exit statuses."""
