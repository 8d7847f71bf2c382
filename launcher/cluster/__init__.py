"""Where Ray is: joined, started, looked at, sent a launch."""
