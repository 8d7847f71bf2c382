"""Networks as both backends have them: parameters, distributions of actions, scaling of inputs."""
