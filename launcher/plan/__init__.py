"""What will be trained, where, and in which directory; no Ray, no framework."""
