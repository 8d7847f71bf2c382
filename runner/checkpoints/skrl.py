"""skrl's own checkpoints in and out: `agent_1600.pt` of its torch agents, `agent_1600.pickle` of its JAX agents.

skrl's names of parameters follow from the configuration: of a container, the layers and activations are counted; the
output's layer is the last container's last with separate networks, and has a name of its own with a shared one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from runner.checkpoints.skrl_files import ROLES, File, Tensors, of_agents, opened, torch_bytes
from runner.config import Config
from runner.config.network import expressions
from runner.config.network.expressions import Call
from runner.config.network.layers import Conv2d, Flatten, Recurrent
from runner.errors import UserError
from runner.networks.blocks import Block, Entry, leaf
from runner.networks.parameters import LOG_STD, Network
from runner.training.state import Counters, MemberState, Moments

log = logging.getLogger(__name__)

ACTIVATIONS = ("elu", "leaky_relu", "relu", "selu", "sigmoid", "softmax", "softplus", "softsign", "tanh")
"""Activations that skrl has; it leaves out any other without a word."""
THEIR_LOG_STD = "log_std_parameter"
FIRST_CELL = ".weight_ih_l0"
"""A parameter that each recurrent module of torch has."""
BYTE = 255.0
"""Our first layer divides uint8 images by this, skrl's does not."""


@dataclass(frozen=True)
class _Layer:
    """One layer in both namings: what the names of its parameters begin with."""

    ours: str
    theirs: str
    factor: float = 1.0
    """Our weights are skrl's times this."""
    channels: int = 0
    """Channels of the image that it reads in flat form, else 0; flax has them last."""


Layers = dict[str, list[_Layer]]
"""By role, in skrl's order; a network that both roles share is the policy's."""


def read_trial(data: bytes, names: Sequence[str], network: Network, config: Config, name: str) -> list[MemberState]:
    """Read the members of a trial, which have these names: of several agents skrl has a dict of modules for each."""
    if len(names) == 1:
        return [read(data, network, config, name)]
    return [read(part, network, config, f"{name}: {agent}") for agent, part in of_agents(data, names, name)]


def read(data: bytes | Mapping[str, Any], network: Network, config: Config, name: str) -> MemberState:
    """Read one member for a given network.

    Counters and score are those of a file that this program wrote, else they begin anew: skrl's files do not have them.
    So do, with a warning, the optimizer's moments where the file has none that fit, and the learning rate where it does
    not say: skrl's JAX agents save neither.
    """
    file = opened(data, network.separate, name)
    legacy = any(key.startswith("net.") for key in file.parameters["policy"])
    cells = {role: _cells(parameters) for role, parameters in file.parameters.items()}
    layers = _layers(network, legacy, file.flax, f"{name}: ", cells)
    if file.flax and config.models.policy.fixed_log_std and network.distribution.gaussian:
        (shape,) = (entry.shape for entry in network.entries if entry.name == LOG_STD)
        fixed = np.broadcast_to(np.array(network.distribution.initial_log_std), shape)
        file.parameters["policy"].setdefault(THEIR_LOG_STD, fixed)
    _check_names(network, layers, file, name)
    parameters = _row(network, layers, file.parameters, 1, name)
    first, second, steps = np.zeros_like(parameters), np.zeros_like(parameters), 0.0
    try:
        if file.adam is None:
            raise UserError(f"{name}: has no optimizer state of these parameters")
        moments = [
            _row(network, layers, tensors, power, name)
            for power, tensors in ((-1, file.adam.first), (-2, file.adam.second))
        ]
        (first, second), steps = moments, file.adam.steps
    except UserError as error:
        log.warning("%s; the optimizer's moments begin at zero", error)
    rate = file.learning_rate or float(np.ravel(config.agent.learning_rate)[0])
    observation, value = _statistics(file.statistics, network, config, name)
    if file.counters is None:
        counters = Counters(0, 0, 0, 0, 0.0, steps, rate, math.nan, -math.inf, False)
    else:
        try:
            counters = replace(Counters(**file.counters), optimizer_steps=steps, learning_rate=rate)
        except TypeError as error:
            raise UserError(f"{name}: corrupted: its counters are not those of a checkpoint: {error}") from None
    return MemberState(parameters, first, second, observation, value, counters)


def write(states: Sequence[MemberState], names: Sequence[str], network: Network, config: Config) -> bytes:
    """One trial, whose members have these names, as the `.pt` file that skrl 2.x's torch agent loads."""
    if len(states) == 1:
        return torch_bytes(_modules(states[0], network, config), asdict(states[0].counters))
    modules = {name: _modules(state, network, config) for name, state in zip(names, states, strict=True)}
    return torch_bytes(modules, {name: asdict(s.counters) for name, s in zip(names, states, strict=True)})


def _modules(state: MemberState, network: Network, config: Config) -> dict[str, Any]:
    """One member as the modules of skrl's agent."""
    layers = _layers(network, False, False, "agent.save: ", {})
    rows = ((state.parameters, 1), (state.first_moment, -1), (state.second_moment, -2))
    parameters, first, second = (_theirs(network, layers, row, power) for row, power in rows)
    order = [(role, key) for role in layers for key in parameters[role]]
    steps = np.array(state.counters.optimizer_steps, np.float32)
    adam = {
        index: {"step": steps, "exp_avg": first[role][key], "exp_avg_sq": second[role][key]}
        for index, (role, key) in enumerate(order)
        if steps > 0 and not (config.models.policy.fixed_log_std and key == THEIR_LOG_STD)
    }
    group: dict[str, Any] = {
        "lr": state.counters.learning_rate, "betas": (0.9, 0.999), "eps": config.agent.adam_epsilon,
        "weight_decay": 0, "amsgrad": False, "maximize": False, "foreach": None, "capturable": False,
        "differentiable": False, "fused": None, "decoupled_weight_decay": False,
    }  # fmt: skip
    if config.agent.learning_rate_scheduler is not None:
        group["initial_lr"] = float(np.ravel(config.agent.learning_rate)[0])
    modules: dict[str, Any] = {
        "policy": parameters["policy"],
        "value": parameters["value" if network.separate else "policy"],
        "optimizer": {"state": adam, "param_groups": [group | {"params": list(range(len(order)))}]},
    }
    for key, columns in _preprocessors(network, config).items():
        found = state.value_statistics if key == "value_preprocessor" else state.observation_statistics
        assert found is not None
        numbers = {"running_mean": found.mean[columns], "running_variance": found.variance[columns]}
        modules[key] = numbers | {"current_count": np.array(found.count)}
    return modules


def _cells(parameters: Tensors) -> list[str]:
    """Names of the recurrent modules, in the file's order: skrl has those of people's own classes alone."""
    return [name.removesuffix(FIRST_CELL) for name in parameters if name.endswith(FIRST_CELL)]


def _layers(network: Network, legacy: bool, flax: bool, where: str, cells: Mapping[str, Sequence[str]]) -> Layers:
    """Every layer with parameters; `legacy` are the names of skrl 1.0 to 1.2, which people's own classes have, too.

    `flax` are those of a JAX agent's file, `cells` the names of recurrent modules by role.
    """
    found: Layers = {}
    for name, role in zip(ROLES, (network.policy, network.value), strict=True):
        place, channels = f"{where}models.{name}", 0
        calls = {node.function for node in expressions.nodes(role.output) if isinstance(node, Call)}
        _check_activations(calls - {"concatenate"}, f"{place}.output")
        head = {"policy": "mean_net.0", "value": "value_net.0"}[name] if legacy else f"{name}_layer"
        if name == "policy" or network.separate:
            if not role.blocks:
                raise UserError(f"{place}.network: has no container; needed: one, as skrl has it")
            found[name], modules = [], iter(cells.get(name, ()))
            for block in role.blocks:
                if channels:
                    raise UserError(f"{place}.network: a container gives an image, which skrl's JAX lays out otherwise")
                layers, following, channels = _block(network, block, legacy, flax, place, modules)
                found[name] += layers
            if network.separate:
                head, last = following, role.blocks[-1].name
                if role.head and last in {used.text for used in expressions.names(role.output)}:
                    raise UserError(f"{place}.output: skrl's {last} includes the output's own layer; name another")
        if role.head:
            found["policy" if not network.separate else name].append(_Layer(role.head, head, 1.0, channels))
    return found


def _block(
    network: Network, block: Block, legacy: bool, flax: bool, place: str, cells: Iterator[str]
) -> tuple[list[_Layer], str, int]:
    """A container's layers, skrl's name of a layer that would follow, and the channels that it would read."""
    _check_activations({step.activation for step in block.steps} - {"identity"}, f"{place}.network")
    prefix = "net" if legacy else f"{block.name}_container"
    factor = _image_factor(network, block, place)
    layers: list[_Layer] = []
    index = channels = 0
    for step in block.steps:
        if isinstance(step.layer, Flatten):
            if channels and step.layer != Flatten():
                raise UserError(f"{place}.network: skrl's JAX flattens all axes; needed: flatten without axes")
            index += not step.name.endswith(".-1")  # that one is our own, in front of a first linear layer
            continue
        if isinstance(step.layer, Recurrent):
            if (module := next(cells, None)) is None:
                raise UserError(
                    f"{place}.network: {step.layer.cell}: skrl's Runner has no recurrent layers; needed: others"
                )
            if factor != 1.0:
                break
            layers.append(_Layer(step.name, module))
            continue
        layers.append(_Layer(step.name, f"{prefix}.{index}", factor, channels))
        factor, channels = 1.0, step.layer.channels if flax and isinstance(step.layer, Conv2d) else 0
        index += 1 if step.activation == "identity" and not legacy else 2
    if factor != 1.0:
        raise UserError(f"{place}.network: {block.name} has no layer that could divide images by {BYTE:g} for skrl")
    return layers, f"{prefix}.{index}", channels


def _image_factor(network: Network, block: Block, place: str) -> float:
    """Factor of skrl's weights of a container's first layer in ours."""
    read = expressions.names(block.input)
    images = [n.text in ("OBSERVATIONS", "STATES") and leaf(network.observations, n).image for n in read]
    if not block.scaled or not any(images):
        return 1.0
    if not all(images):
        raise UserError(
            f"{place}.network: {block.name} reads images beside other numbers, and skrl does not divide images by "
            f"{BYTE:g}; needed: the division in its input"
        )
    return BYTE


def _check_activations(names: set[str], place: str) -> None:
    for name in sorted(names - set(ACTIVATIONS)):
        raise UserError(f"{place}: skrl computes without {name}; needed: none, or {', '.join(ACTIVATIONS)}")


def _pairs(network: Network, role: str, layers: list[_Layer]) -> Iterator[tuple[Entry, str, _Layer]]:
    """Our entry, skrl's name and the layer of a role's every parameter, in skrl's order."""
    entries = {entry.name: entry for entry in network.entries}
    if role == "policy" and LOG_STD in entries:
        yield entries[LOG_STD], THEIR_LOG_STD, _Layer(LOG_STD, THEIR_LOG_STD)
    for layer in layers:
        for name, entry in entries.items():
            whose, _, part = name.rpartition(".")
            if whose == layer.ours:
                yield entry, f"{layer.theirs}.{part}", layer


def _check_names(network: Network, layers: Layers, file: File, name: str) -> None:
    """Every parameter is there, and no other."""
    shared = bool({"policy_layer.weight", "mean_net.0.weight"} & file.parameters["policy"].keys())
    if network.policy.head and shared == network.separate:
        why = " (skrl's JAX has separate networks whatever its configuration says)" if file.flax else ""
        raise UserError(
            f"{name}: holds {'one network' if shared else 'separate networks'} for policy and value{why}; needed: "
            f"models.separate: {not shared}, found {network.separate}"
        )
    for role in layers:
        needed = {theirs for _, theirs, _ in _pairs(network, role, layers[role])}
        found = file.parameters[role].keys()
        if needed != found:
            lacks, has = (", ".join(sorted(names)) or "none" for names in (needed - found, found - needed))
            raise UserError(
                f"{name}: of another network: {role} lacks parameters ({lacks}) or has unknown ones ({has}); needed by "
                f"the configuration: {', '.join(sorted(needed))}"
            )


def _row(network: Network, layers: Layers, roles: Mapping[str, Tensors], power: int, name: str) -> np.ndarray:
    """skrl's arrays, by role and its names, as a row of ours `[n]`, with zeros for missing ones.

    `power` is 1 for parameters, −1 and −2 for first and second moments, which scale as gradients do.
    """
    named = {entry.name: np.zeros(entry.shape) for entry in network.entries}
    for role, some in layers.items():
        for entry, theirs, layer in _pairs(network, role, some):
            array = roles[role].get(theirs, named[entry.name])
            if array.shape != entry.shape:
                raise UserError(
                    f"{name}: of another network: {theirs} of {role} is {list(array.shape)} there and "
                    f"{list(entry.shape)} in the configuration"
                )
            if not np.isfinite(array).all():
                raise UserError(f"{name}: {theirs} of {role} holds numbers that are not finite; needed: finite ones")
            if len(entry.shape) > 1:
                if layer.channels and len(entry.shape) == 2:
                    array = array.reshape(len(array), -1, layer.channels).swapaxes(1, 2).reshape(entry.shape)
                array = array * layer.factor**power
            named[entry.name] = array
    return network.join(named)


def _theirs(network: Network, layers: Layers, row: np.ndarray, power: int) -> dict[str, Tensors]:
    """The inverse of `_row`, for torch."""
    named = network.split(np.asarray(row, np.float32))
    return {
        role: {
            theirs: named[entry.name] / np.float32(layer.factor**power if len(entry.shape) > 1 else 1)
            for entry, theirs, layer in _pairs(network, role, some)
        }
        for role, some in layers.items()
    }


def _preprocessors(network: Network, config: Config) -> dict[str, slice]:
    """skrl's name of every preprocessor that the configuration asks for → its columns in our statistics."""
    agent, parts = config.agent, network.observations
    found = {}
    if agent.observation_preprocessor is not None:
        found["observation_preprocessor"] = slice(parts.observed.start, parts.observed.stop)
    if agent.state_preprocessor is not None and parts.states != parts.observed:
        found["state_preprocessor"] = slice(parts.states.start, parts.states.stop)
    if agent.value_preprocessor is not None:
        found["value_preprocessor"] = slice(0, 1)
    return found


def _statistics(
    found: Mapping[str, Tensors], network: Network, config: Config, name: str
) -> tuple[Moments | None, Moments | None]:
    """Statistics of observations and of values."""
    wanted = _preprocessors(network, config)
    # skrl 2.x keeps a preprocessor of no columns where the environment has no states.
    found = {key: tensors for key, tensors in found.items() if np.size(tensors.get("running_mean", 0)) > 0}
    if "observation_preprocessor" not in found and "state_preprocessor" not in wanted:
        # skrl 1.x has this name for observations.
        found = {key.replace("state_", "observation_"): tensors for key, tensors in found.items()}
    if found.keys() != wanted.keys():
        has, needs = (", ".join(sorted(names)) or "no preprocessor" for names in (found, wanted))
        raise UserError(f"{name}: has statistics of {has}; needed by the configuration: {needs}")
    size, moments = network.observation_size, []
    for keys, total in ((("observation_preprocessor", "state_preprocessor"), size), (("value_preprocessor",), 1)):
        mean, variance, count = np.zeros(total), np.ones(total), 0.0
        for key in (key for key in keys if key in wanted):
            columns, tensors = wanted[key], found[key]
            parts = [np.ravel(tensors.get(part, ())) for part in ("running_mean", "running_variance", "current_count")]
            sizes = [len(part) for part in parts]
            needed = [columns.stop - columns.start] * 2 + [1]
            if sizes != needed:
                raise UserError(f"{name}: {key} has {sizes} means, variances and counts; needed: {needed}")
            if not np.isfinite(np.concatenate(parts)).all() or parts[1].min() < 0 or parts[2][0] <= 0:
                raise UserError(f"{name}: {key} has statistics that are not finite or below 0; needed: others")
            mean[columns], variance[columns], count = parts[0], parts[1], max(count, float(parts[2][0]))
        moments.append(Moments(mean, variance, count) if count else None)
    return moments[0], moments[1]
