"""Ray: started or joined, looked at, sent a launch."""
