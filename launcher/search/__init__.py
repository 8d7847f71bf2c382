"""Search: settings drawn or proposed, scored over their seeds, and the winner confirmed on fresh ones."""
