"""One launch at work: attempts, their processes, what becomes of those that die."""
