"""What both backends share of training: packs, draws, episodes, records, reports."""
