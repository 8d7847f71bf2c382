"""Files for other programs that are derived from the ledger: TensorBoard's event files, wandb's runs."""
