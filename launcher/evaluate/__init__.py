"""`launch eval`: checkpoints play the same episodes in batches, and are filmed."""
