"""The part of training that both backends share: packs, draws, episodes, records, reports."""
