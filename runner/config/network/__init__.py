"""Networks as they are written: layers, expressions, changes of shape."""
