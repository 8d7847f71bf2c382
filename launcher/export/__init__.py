"""What is derived from the ledger for other programs: TensorBoard's event files, wandb's runs."""
