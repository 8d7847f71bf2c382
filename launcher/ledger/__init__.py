"""The ledger: tables, the one process that writes them, and readers."""
