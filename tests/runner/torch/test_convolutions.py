"""Convolutions by parts, with channels last, and oneDNN's products give what torch's own layers give."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from runner.envs.spaces import layout
from runner.networks.parameters import Network
from runner.torch import models
from tests.runner.builders import make_config, make_network

P, B, A = 2, 7, 3
LAYERS = [
    {"conv2d": {"out_channels": 8, "kernel_size": 3, "stride": 2, "padding": 1}},
    {"conv2d": [6, 2]},
    "flatten",
    5,
]


@pytest.fixture(scope="module")
def network() -> Network:
    containers = [{"name": "cnn", "input": "OBSERVATIONS", "layers": LAYERS, "activations": "elu"}]
    changes = {"models.policy.network": containers, "models.value.network": containers}
    config = make_config({**changes, "agent.observation_preprocessor": None}, "CategoricalMixin")
    return make_network(config, layout(Box(0, 255, (4, 9, 8), np.uint8)), A)


def slopes(network: Network, parameters: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and values `[P, B, A + 1]` of our networks, and the gradient of the sum of their squares."""
    leaf = parameters.clone().requires_grad_()
    outputs, values = models.policy_and_value(network, models.cut(network, leaf), rows)
    found = torch.cat((outputs, values.unsqueeze(2)), 2)
    (slope,) = torch.autograd.grad(found.square().sum(), leaf)
    return found.detach(), slope


def torchs(network: Network, parameters: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The same of torch's own modules in float64, for each member alone."""
    body = nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1), nn.ELU(), nn.Conv2d(8, 6, 2), nn.ELU(), nn.Flatten(), nn.LazyLinear(5), nn.ELU()
    )
    found, slope = [], []
    for row, own in zip(rows, parameters.double(), strict=True):
        net = copy.deepcopy(body).append(nn.LazyLinear(A)).double()
        value = nn.Linear(5, 1).double()
        images = row.unflatten(1, (4, 9, 8)).double() / 255
        net(images)
        tensors = [*net.parameters(), *value.parameters()]
        for tensor, numbers in zip(tensors, own.split([x.numel() for x in tensors]), strict=True):
            tensor.data.copy_(numbers.view_as(tensor))
        features = net[:-1](images)
        both = torch.cat((net[-1](features), value(features)), 1)
        slope.append(torch.cat([x.flatten() for x in torch.autograd.grad(both.square().sum(), tensors)]))
        found.append(both.detach())
    return torch.stack(found), torch.stack(slope)


@pytest.mark.parametrize("onednn", [False, True], ids=["products of torch", "products of oneDNN"])
@pytest.mark.parametrize("most", [1, 3, 2**20])
def test_parts_of_any_size_give_what_torchs_modules_give(
    network: Network, most: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_slow_products", lambda: onednn)
    monkeypatch.setattr(models, "LEAST_IMAGE", 0)
    monkeypatch.setattr(models, "LARGEST_PART", most * 4 * 9 * 8)
    parameters = torch.from_numpy(np.stack([network.initial(seed) for seed in range(P)]))
    rows = torch.randint(0, 256, (P, B, 4 * 9 * 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for mine, exact in zip(slopes(network, parameters, rows), torchs(network, parameters, rows), strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-6 * float(exact.abs().max()))
    for p in range(P):  # alone, to the bit
        alone = slopes(network, parameters[p : p + 1], rows[p : p + 1])
        together = slopes(network, parameters, rows)
        assert all(torch.equal(one[0], both[p]) for one, both in zip(alone, together, strict=True))


def test_without_onednn_and_in_a_compiler_the_networks_are_the_same(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = torch.from_numpy(np.stack([network.initial(seed) for seed in range(P)]))
    rows = torch.randint(0, 256, (P, B, 4 * 9 * 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(models, "LEAST_IMAGE", 0)
    with_it = slopes(network, parameters, rows)
    monkeypatch.setattr(models, "_by_hand", lambda x: False)
    for mine, plain in zip(with_it, slopes(network, parameters, rows), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6 * float(plain.abs().max()))
