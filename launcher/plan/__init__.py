"""Plans: trials, packs, placement, launch directories; no Ray, no framework."""
