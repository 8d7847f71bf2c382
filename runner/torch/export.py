"""One member's policy as a program that torch and ONNX runtimes run without this one.

Axes: B row · O observation · K number of an action. The functions of training are called with P = 1.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from runner.envs.spaces import ActionSpace
from runner.errors import UserError
from runner.networks.parameters import LOG_STD, Network
from runner.torch import distributions, models, preprocessors
from runner.torch.preprocessors import Scaler, Statistics
from runner.training.state import MemberState

Act = Callable[..., tuple[np.ndarray, ...]]
"""Observations `[B, …]`, and the state `[B, M]` of a recurrent policy → actions `[B, …]`, and the state after."""
INPUTS, OUTPUTS = ["observations", "state"], ["actions", "state_after"]
"""Names in an ONNX file; the second of recurrent policies alone."""


class Policy(nn.Module):
    """Observations `[B, …]` as the environment gives them → the most probable actions `[B, …]`, as it takes them.

    A recurrent policy reads what it remembers `[B, M]` as well, zeros where an episode begins, and gives it after.
    Parameters, statistics and bounds are buffers such as `policy_net_0_weight`, `observation_mean` and `low`.
    """

    def __init__(
        self,
        network: Network,
        state: MemberState,
        actions: ActionSpace,
        clip: bool,
        columns: np.ndarray | None = None,
    ) -> None:
        """Take from a member what its actions depend on.

        Args:
            network: of the member.
            state: of the member.
            actions: of the environment.
            clip: real numbers are clipped to the environment's bounds.
            columns: of an observation, followed by a 0 and a 1, that the networks read: those of one of several agents
                may be fewer than all agents'. Default all, in their order.
        """
        super().__init__()
        self.network, self._actions, self._clip = network, actions, clip
        self._integer = torch.from_numpy(np.empty(0, actions.dtype)).dtype
        named = models.cut(network, torch.from_numpy(state.parameters).unsqueeze(0))
        self._names = {name: name.replace(".", "_") for name in named if name.startswith("policy.") and name != LOG_STD}
        buffers = {flat: named[name].clone() for name, flat in self._names.items()}
        self._scales = state.observation_statistics is not None
        if moments := state.observation_statistics:
            mean, variance = (torch.from_numpy(row).unsqueeze(0) for row in (moments.mean, moments.variance))
            scaler = preprocessors.scaler(Statistics(mean, variance, torch.zeros(1, 1)), *network.scaling)
            buffers |= {f"observation_{name}": torch.as_tensor(x).float() for name, x in scaler._asdict().items()}
        bounds = {"low": actions.low, "high": actions.high}
        buffers |= {name: torch.from_numpy(bound) for name, bound in bounds.items() if bound.size}
        if columns is not None:
            buffers["columns"] = torch.from_numpy(columns)
        self._gathers = columns is not None
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def outputs(self, observations: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Means or logits `[1, B, W]`, and the state after `[1, B, M]`."""
        rows = observations.flatten(1)
        if self._gathers:
            zeros = torch.zeros_like(rows[:, :1])
            rows = torch.cat((rows, zeros, zeros + 1), 1)[:, self.get_buffer("columns")]
        rows = rows.unsqueeze(0)
        if self._scales:
            rows = Scaler(*(self.get_buffer(f"observation_{name}") for name in Scaler._fields)).normalize(rows)
        named = {name: self.get_buffer(flat) for name, flat in self._names.items()}
        return models.acted(self.network, named, rows, None if state is None else state.unsqueeze(0))

    def forward(self, observations: Tensor, state: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Actions, and the state after."""
        outputs, after = self.outputs(observations, state)
        actions = self._taken(outputs)
        return actions if after is None else (actions, after[0])

    def _taken(self, outputs: Tensor) -> Tensor:
        """The actions that the environment gets."""
        distribution, shape = self.network.distribution, self._actions.shape
        if not distribution.gaussian:
            chosen = distributions.mode(distribution, outputs, None)[0]
            if distribution.joint:
                chosen = torch.stack(torch.unravel_index(chosen[:, 0], distribution.factors), 1)
            return (chosen + self.get_buffer("low")).to(self._integer).reshape(-1, *shape)
        if self._clip:
            outputs = outputs.clamp(self.get_buffer("low"), self.get_buffer("high"))
        return outputs[0].reshape(-1, *shape)


def to_torch(policy: Policy, *inputs: np.ndarray) -> bytes:
    """A file for `torch.export.load`, for any number of rows of these observations' (and states') kind."""
    file = io.BytesIO()
    torch.export.save(_traced(policy, inputs), file)
    return file.getvalue()


def to_onnx(policy: Policy, *inputs: np.ndarray) -> bytes:
    """A file for ONNX runtimes, for any number of rows, whose inputs and outputs are those of INPUTS and OUTPUTS."""
    # It warns of torchvision, which has nothing to do here, and of its own deprecated calls.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _traced(policy, inputs),
                dynamo=True,
                verbose=False,
                input_names=INPUTS[: len(inputs)],
                output_names=OUTPUTS[: len(inputs)],
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"this policy cannot be written as ONNX: {error}; allowed: --to torch") from None
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data


def _traced(policy: Policy, inputs: tuple[np.ndarray, ...]) -> torch.export.ExportedProgram:
    rows = ({0: torch.export.Dim("batch")},) * len(inputs)
    return torch.export.export(policy, tuple(map(torch.from_numpy, inputs)), dynamic_shapes=rows)


def from_torch(data: bytes) -> Act:
    """The function that a file of `to_torch` holds."""
    module = torch.export.load(io.BytesIO(data)).module()

    def act(*inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        found = module(*map(torch.from_numpy, inputs))
        return tuple(x.numpy() for x in (found if isinstance(found, tuple) else (found,)))

    return act


def from_onnx(data: bytes) -> Act:
    """The function that a file of `to_onnx` holds."""
    import onnxruntime  # type: ignore[import-untyped,import-not-found,unused-ignore]

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def act(*inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(session.run(OUTPUTS[: len(inputs)], dict(zip(INPUTS, inputs, strict=False))))

    return act


def lead(policy: Policy, *inputs: np.ndarray) -> np.ndarray:
    """By how much the most probable action's logit exceeds the next one's `[B]`, the least of several actions'.

    0 is a tie.
    """
    outputs, _ = policy.outputs(*map(torch.from_numpy, inputs))
    parts = outputs[0].split(policy.network.distribution.sizes, -1)
    largest = [part.topk(min(2, part.shape[1])).values for part in parts]
    return torch.stack([two[:, 0] - two[:, -1] for two in largest], 1).amin(1).numpy()


def exactly() -> contextlib.AbstractContextManager[None]:
    """In float32 on GPUs too, whose convolutions else round to 10 bits."""
    found: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return found
