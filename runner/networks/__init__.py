"""What a network is in both backends: parameters, distributions of actions, scaling of inputs."""
