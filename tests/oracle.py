"""PPO written from its equations (design §5, skrl's rules): numpy, float64, one member, slow and obvious.

Every backend is held against this file, so it shares no code with any of them. Axes: ``T`` rollout step,
``N`` environment, ``B`` minibatch row, ``O`` observation, ``A`` action. There is no pack axis here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
AnyArray = NDArray[Any]  # of any dtype, turned into float64 or bool on entry
Mask = NDArray[np.bool_]
Parameters = dict[str, Array]

# ---------------------------------------------------------------------------------------------- advantages


def valid_rows(ended: AnyArray, ended_before: AnyArray) -> Mask:
    """``valid_t = not ended_{t-1}``: the row after an episode end is EnvPool's dummy reset row [T, N].

    ``ended_before`` [N] is ``ended`` of the last step of the previous rollout (False after a reset).
    """
    ended = np.asarray(ended, dtype=bool)
    valid = np.empty_like(ended)
    for t in range(len(ended)):
        valid[t] = ~(ended[t - 1] if t > 0 else np.asarray(ended_before, dtype=bool))
    return valid


def gae(
    *,
    rewards: AnyArray,
    values: AnyArray,
    terminated: AnyArray,
    truncated: AnyArray,
    discount_factor: float,
    gae_lambda: float,
    time_limit_bootstrap: bool = True,
) -> tuple[Array, Array]:
    """Advantages and returns [T, N] by the recursion of design §5.

    - ``δ_t = r_t + γ (1 − terminated_t) V_{t+1} − V_t``
    - ``A_t = δ_t + γ λ (1 − ended_t) A_{t+1}`` with ``ended = terminated | truncated``
    - ``R_t = A_t + V_t``

    ``values`` is [T+1, N]; ``values[t + 1]`` is V of the observation that step t returned, which after an
    episode end is the true final observation. Without ``time_limit_bootstrap`` a truncation counts as a
    termination.
    """
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
    advantages = np.zeros_like(rewards)
    steps, num_envs = rewards.shape
    for n in range(num_envs):
        following = 0.0
        for t in reversed(range(steps)):
            ended = terminated[t, n] or truncated[t, n]
            no_bootstrap = terminated[t, n] if time_limit_bootstrap else ended
            next_value = 0.0 if no_bootstrap else values[t + 1, n]
            delta = rewards[t, n] + discount_factor * next_value - values[t, n]
            following = delta + (0.0 if ended else discount_factor * gae_lambda * following)
            advantages[t, n] = following
    return advantages, advantages + values[:-1]


def brute_force_advantages(
    *,
    rewards: AnyArray,
    values: AnyArray,
    terminated: AnyArray,
    truncated: AnyArray,
    discount_factor: float,
    gae_lambda: float,
    time_limit_bootstrap: bool = True,
) -> Array:
    """``A_t = Σ_k (γλ)^k δ_{t+k}`` up to and including the episode's last step: the definition of `gae`."""
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
    cut = terminated if time_limit_bootstrap else terminated | truncated
    deltas = rewards + discount_factor * np.where(cut, 0.0, values[1:]) - values[:-1]
    advantages = np.zeros_like(rewards)
    steps, num_envs = rewards.shape
    for n in range(num_envs):
        ends = np.flatnonzero(terminated[:, n] | truncated[:, n])
        for t in range(steps):
            last = min([int(end) for end in ends if end >= t], default=steps - 1)
            advantages[t, n] = sum((discount_factor * gae_lambda) ** (k - t) * deltas[k, n] for k in range(t, last + 1))
    return advantages


def normalize_advantages(advantages: AnyArray, valid: AnyArray, eps: float = 1e-8) -> Array:
    """``(A − mean) / (std + eps)``, mean and unbiased std over the valid rows; every row is mapped.

    With fewer than two valid rows there is no deviation, and the advantages come back as they are.
    """
    advantages = np.asarray(advantages, np.float64)
    chosen = advantages[np.asarray(valid, bool)]
    if len(chosen) < 2:
        return advantages.copy()
    return (advantages - chosen.mean()) / (chosen.std(ddof=1) + eps)


# ---------------------------------------------------------------------------------------------- statistics


class RunningStandardScaler:
    """skrl's running mean and variance per feature [k], float64; starts at mean 0, variance 1, count 1."""

    def __init__(self, size: int, epsilon: float = 1e-8, clip_threshold: float = 5.0) -> None:
        self.mean = np.zeros(size)
        self.variance = np.ones(size)
        self.count = 1.0
        self.epsilon = epsilon
        self.clip_threshold = clip_threshold

    def absorb(self, rows: AnyArray) -> None:
        """Chan's merge with ``rows`` [n, k] of mean m_b and unbiased variance v_b (0 for a single row).

        ``M2 = v c + v_b n + (m_b − m)² c n / (c + n)``, ``m += (m_b − m) n / (c + n)``, ``v = M2 / (c + n)``.
        """
        rows = np.asarray(rows, np.float64).reshape(-1, len(self.mean))
        n, c = len(rows), self.count
        if n == 0:
            return
        batch_mean = rows.mean(axis=0)
        batch_variance = rows.var(axis=0, ddof=1) if n > 1 else np.zeros_like(self.mean)
        delta = batch_mean - self.mean
        m2 = self.variance * c + batch_variance * n + delta**2 * c * n / (c + n)
        self.mean = self.mean + delta * n / (c + n)
        self.variance = m2 / (c + n)
        self.count = c + n

    def normalize(self, x: AnyArray) -> Array:
        """``clip((x − mean) / (sqrt(variance) + epsilon), ±clip_threshold)`` for x [..., k]."""
        scaled = (np.asarray(x, np.float64) - self.mean) / (np.sqrt(self.variance) + self.epsilon)
        return np.clip(scaled, -self.clip_threshold, self.clip_threshold)

    def inverse(self, x: AnyArray) -> Array:
        """``sqrt(variance) · clip(x, ±clip_threshold) + mean`` for x [..., k]; no epsilon, as in skrl."""
        clipped = np.clip(np.asarray(x, np.float64), -self.clip_threshold, self.clip_threshold)
        return np.sqrt(self.variance) * clipped + self.mean


# ---------------------------------------------------------------------------------------------- network

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _negative(x: Array) -> Array:
    return np.minimum(x, 0.0)  # keeps the branch of elu and selu that is not taken from overflowing


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


def _normal_pdf(x: Array) -> Array:
    return np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)


def _mish_slope(x: Array) -> Array:
    y = np.tanh(_softplus(x))
    return y + x * (1.0 - y**2) * _sigmoid(x)


# name: (f(x), f'(x)); gelu is the exact one (erf), as torch's default is
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "identity": (lambda x: x, np.ones_like),
    "relu": (lambda x: np.maximum(x, 0.0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x > 0, 1.0, 0.01)),
    "elu": (
        lambda x: np.where(x > 0, x, np.expm1(_negative(x))),
        lambda x: np.where(x > 0, 1.0, np.exp(_negative(x))),
    ),
    "selu": (
        lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(_negative(x))),
        lambda x: SELU_SCALE * np.where(x > 0, 1.0, SELU_ALPHA * np.exp(_negative(x))),
    ),
    "tanh": (np.tanh, lambda x: 1.0 - np.tanh(x) ** 2),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * (1.0 - _sigmoid(x))),
    "softplus": (_softplus, _sigmoid),
    "softsign": (lambda x: x / (1.0 + np.abs(x)), lambda x: 1.0 / (1.0 + np.abs(x)) ** 2),
    "gelu": (lambda x: x * _normal_cdf(x), lambda x: _normal_cdf(x) + x * _normal_pdf(x)),
    "silu": (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1.0 + x * (1.0 - _sigmoid(x)))),
    "mish": (lambda x: x * np.tanh(_softplus(x)), _mish_slope),
}


def init_parameters(
    rng: np.random.Generator,
    *,
    observations: int,
    actions: int,
    hidden: Sequence[int],
    separate: bool,
    gaussian: bool = True,
    initial_log_std: float = 0.0,
) -> Parameters:
    """Random parameters under the shared names, weights and biases uniform in ±1/√fan_in (torch's Linear)."""
    parameters: Parameters = {}

    def dense(name: str, fan_in: int, fan_out: int) -> None:
        bound = 1.0 / math.sqrt(fan_in)
        parameters[f"{name}.weight"] = rng.uniform(-bound, bound, (fan_out, fan_in))
        parameters[f"{name}.bias"] = rng.uniform(-bound, bound, fan_out)

    widths = [observations, *hidden]
    for trunk in ("policy", "value") if separate else ("policy",):
        for i in range(len(hidden)):
            dense(f"{trunk}.net.{i}", widths[i], widths[i + 1])
    dense("policy.head", widths[-1], actions)
    dense("value.head", widths[-1], 1)
    if gaussian:
        parameters["policy.log_std"] = np.full(actions, float(initial_log_std))
    return parameters


def _layer_activations(parameters: Parameters, trunk: str, hidden: str | Sequence[str]) -> list[str]:
    depth = sum(f"{trunk}.net.{i}.weight" in parameters for i in range(len(parameters)))
    return [hidden] * depth if isinstance(hidden, str) else list(hidden)


def _trunk(
    parameters: Parameters, trunk: str, x: Array, hidden: str | Sequence[str]
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Hidden layers ``x ← f(x Wᵀ + b)``; also returns each layer's (input, pre-activation)."""
    tape = []
    for i, name in enumerate(_layer_activations(parameters, trunk, hidden)):
        z = x @ parameters[f"{trunk}.net.{i}.weight"].T + parameters[f"{trunk}.net.{i}.bias"]
        tape.append((x, z))
        x = ACTIVATIONS[name][0](z)
    return x, tape


def forward(
    parameters: Parameters,
    observations: AnyArray,
    *,
    hidden_activations: str | Sequence[str] = "elu",
    output_activation: str = "identity",
    output_scale: float = 1.0,
    separate: bool = True,
) -> tuple[Array, Array]:
    """Policy output ``output_scale · act(h Wᵀ + b)`` [B, A] (mean or logits) and value [B].

    ``h`` is the last hidden layer of ``policy.net``; the value head reads ``value.net``, or ``policy.net``
    when shared.
    """
    x = np.asarray(observations, np.float64)
    h, _ = _trunk(parameters, "policy", x, hidden_activations)
    g = _trunk(parameters, "value", x, hidden_activations)[0] if separate else h
    z = h @ parameters["policy.head.weight"].T + parameters["policy.head.bias"]
    value = g @ parameters["value.head.weight"].T + parameters["value.head.bias"]
    return output_scale * ACTIVATIONS[output_activation][0](z), value[:, 0]


def backward(
    parameters: Parameters,
    observations: AnyArray,
    policy_gradient: Array,
    value_gradient: Array,
    *,
    hidden_activations: str | Sequence[str] = "elu",
    output_activation: str = "identity",
    output_scale: float = 1.0,
    separate: bool = True,
) -> Parameters:
    """Reverse mode through `forward`: dL/d(policy output) [B, A], dL/d(value) [B] → dL/d(parameter) by name.

    Per dense layer ``z = x Wᵀ + b``: ``dW = dzᵀ x``, ``db = Σ_B dz``, ``dx = dz W``, and ``dz = dy · f'(z)``.
    ``policy.log_std`` is not part of the network; its gradient is zero here.
    """
    x = np.asarray(observations, np.float64)
    gradient = {name: np.zeros_like(p, np.float64) for name, p in parameters.items()}

    def dense(name: str, inputs: Array, dz: Array) -> Array:
        gradient[f"{name}.weight"] += dz.T @ inputs
        gradient[f"{name}.bias"] += dz.sum(axis=0)
        return dz @ parameters[f"{name}.weight"]

    def trunk_backward(trunk: str, tape: list[tuple[Array, Array]], dy: Array) -> None:
        names = _layer_activations(parameters, trunk, hidden_activations)
        for i in reversed(range(len(tape))):
            inputs, z = tape[i]
            dy = dense(f"{trunk}.net.{i}", inputs, dy * ACTIVATIONS[names[i]][1](z))

    h, policy_tape = _trunk(parameters, "policy", x, hidden_activations)
    z = h @ parameters["policy.head.weight"].T + parameters["policy.head.bias"]
    dz = policy_gradient * output_scale * ACTIVATIONS[output_activation][1](z)
    dh = dense("policy.head", h, dz)
    if separate:
        g, value_tape = _trunk(parameters, "value", x, hidden_activations)
        trunk_backward("value", value_tape, dense("value.head", g, value_gradient[:, None]))
    else:
        dh = dh + dense("value.head", h, value_gradient[:, None])
    trunk_backward("policy", policy_tape, dh)
    return gradient


# ---------------------------------------------------------------------------------------------- recurrent networks


def walk(
    parameters: Parameters,
    trunk: str,
    cell: str,
    observations: AnyArray,
    begins: AnyArray,
    start: Array,
    hidden: str | Sequence[str],
) -> tuple[Array, Array]:
    """A sequence, step by step: hidden layers, then LSTMs or GRUs; what the last gives [L, H], and all remember [L, M].

    - lstm: ``i, f, g, o = W x + b + U h + v``, ``c ← σ(f) c + σ(i) tanh(g)``, ``h ← σ(o) tanh(c)``
    - gru: ``r = σ(W_r x + b_r + U_r h + v_r)``, z alike, ``n = tanh(W_n x + b_n + r (U_n h + v_n))``,
      ``h ← (1 − z) n + z h``

    What is remembered (``start`` [M]: h of every layer, then c of every layer) is zero where an episode begins.
    """
    activations = _layer_activations(parameters, trunk, hidden)
    name = f"{trunk}.net.{len(activations)}"
    layers = sum(f"{name}.weight_hh_l{k}" in parameters for k in range(9))
    remembered = start.reshape(-1, parameters[f"{name}.weight_hh_l0"].shape[1])
    given, states = [], []
    for x, begin in zip(np.asarray(observations, np.float64), begins, strict=True):
        before = np.zeros_like(remembered) if begin else remembered
        remembered = before.copy()
        for i, activation in enumerate(activations):
            z = parameters[f"{trunk}.net.{i}.weight"] @ x + parameters[f"{trunk}.net.{i}.bias"]
            x = ACTIVATIONS[activation][0](z)
        for k in range(layers):
            w, u, b, v = (
                parameters[f"{name}.{part}_l{k}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            read, own = w @ x + b, u @ before[k] + v
            if cell == "lstm":
                enter, forget, new, leave = np.split(read + own, 4)
                c = _sigmoid(forget) * before[layers + k] + _sigmoid(enter) * np.tanh(new)
                x, remembered[layers + k] = _sigmoid(leave) * np.tanh(c), c
            else:
                (r, z, n), (own_r, own_z, own_n) = np.split(read, 3), np.split(own, 3)
                n = np.tanh(n + _sigmoid(r + own_r) * own_n)
                z = _sigmoid(z + own_z)
                x = (1.0 - z) * n + z * before[k]
            remembered[k] = x
        given.append(x)
        states.append(remembered.ravel())
    return np.array(given), np.array(states)


@dataclass
class Recurrent:
    """A rollout as sequences for networks of `walk`: q-th sequence, l-th step.

    ``begins`` [Q, L] says where an episode begins, ``starts`` what each trunk remembers before each sequence [Q, M].
    """

    cell: str
    begins: AnyArray
    starts: dict[str, Array]

    def functions(self, chosen: AnyArray, observations: Array, valid: Mask) -> tuple[Any, Any]:
        """`forward` and `backward` of these sequences, whose rows are one sequence after the other; valid rows only.

        Backward is by central differences of forward.
        """
        sequences = observations.reshape(len(chosen), -1, observations.shape[-1])

        def features(parameters: Parameters, trunk: str, hidden: Any) -> Array:
            parts = [
                walk(parameters, trunk, self.cell, rows, self.begins[q], self.starts[trunk][q], hidden)[0]
                for q, rows in zip(chosen, sequences, strict=True)
            ]
            return np.concatenate(parts)[valid]

        def forward(parameters: Parameters, _: AnyArray, **network: Any) -> tuple[Array, Array]:
            hidden, separate = network["hidden_activations"], network["separate"]
            h = features(parameters, "policy", hidden)
            g = features(parameters, "value", hidden) if separate else h
            z = h @ parameters["policy.head.weight"].T + parameters["policy.head.bias"]
            value = g @ parameters["value.head.weight"].T + parameters["value.head.bias"]
            return network["output_scale"] * ACTIVATIONS[network["output_activation"]][0](z), value[:, 0]

        def backward(parameters: Parameters, _: AnyArray, by_output: Array, by_value: Array, **network: Any) -> Any:
            def total(changed: Parameters) -> float:
                output, value = forward(changed, _, **network)
                return float((by_output * output).sum() + (by_value * value).sum())

            gradient = {}
            for name, p in parameters.items():
                slopes = []
                for i in range(p.size):
                    step = np.zeros(p.size)
                    step[i] = 1e-5
                    up, down = (total({**parameters, name: p + s * step.reshape(p.shape)}) for s in (1, -1))
                    slopes.append((up - down) / 2e-5)
                gradient[name] = np.array(slopes).reshape(p.shape)
            return gradient

        return forward, backward


# ---------------------------------------------------------------------------------------------- distributions


def gaussian_log_prob(
    mean: Array, log_std: Array, actions: AnyArray, min_log_std: float = -20.0, max_log_std: float = 2.0
) -> Array:
    """``Σ_A −½ ((a − μ)/σ)² − log σ − ½ log 2π`` [B], with ``σ = exp(clip(log_std, min, max))``."""
    log_std = np.clip(log_std, min_log_std, max_log_std)
    z = (np.asarray(actions, np.float64) - mean) / np.exp(log_std)
    return (-0.5 * z**2 - log_std - 0.5 * math.log(2.0 * math.pi)).sum(axis=-1)


def gaussian_entropy(mean: Array, log_std: Array, min_log_std: float = -20.0, max_log_std: float = 2.0) -> Array:
    """``Σ_A ½ + ½ log 2π + log σ`` [B]."""
    per_dimension = 0.5 + 0.5 * math.log(2.0 * math.pi) + np.clip(log_std, min_log_std, max_log_std)
    return np.broadcast_to(per_dimension, mean.shape).sum(axis=-1)


def log_softmax(logits: Array) -> Array:
    """``logits − log Σ exp(logits)`` along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def categorical_log_prob(logits: Array, actions: AnyArray) -> Array:
    """``log p_a`` [B] for integer actions [B] or [B, 1]."""
    index = np.asarray(actions).astype(np.int64).reshape(len(logits))
    return log_softmax(logits)[np.arange(len(logits)), index]


def categorical_entropy(logits: Array) -> Array:
    """``−Σ p log p`` [B]."""
    log_p = log_softmax(logits)
    return -(np.exp(log_p) * log_p).sum(axis=-1)


# ---------------------------------------------------------------------------------------------- loss


@dataclass
class Loss:
    """What one minibatch yields: losses, diagnostics (no gradient through them), the gradient by name."""

    total: float
    policy: float
    value: float
    entropy: float  # −entropy_loss_scale · mean(entropy)
    mean_entropy: float
    kl: float
    clip_fraction: float
    gradient: Parameters


def loss(
    parameters: Parameters,
    *,
    observations: AnyArray,
    actions: AnyArray,
    log_probs: AnyArray,
    values: AnyArray,
    advantages: AnyArray,
    returns: AnyArray,
    valid: AnyArray,
    distribution: str = "gaussian",
    ratio_clip: float = 0.2,
    value_clip: float = 0.2,
    value_loss_scale: float = 1.0,
    entropy_loss_scale: float = 0.0,
    value_loss: str = "skrl",
    min_log_std: float = -20.0,
    max_log_std: float = 2.0,
    fixed_log_std: bool = False,
    functions: tuple[Any, Any] | None = None,
    **network: Any,
) -> Loss:
    """PPO's loss on one minibatch of normalised observations, old values and returns.

    - ``r = logp_new − logp_old``, ``ρ = exp(r)``, ``L_π = −mean(min(A ρ, A clip(ρ, 1 ± ratio_clip)))``
    - ``V_c = V_old + clip(V − V_old, ±value_clip)``; ``value_clip ≤ 0``: ``V_c = V``
    - ``L_V = value_loss_scale · mean((R − V_c)²)`` (``skrl``), or
      ``value_loss_scale · mean(max((R − V)², (R − V_c)²))`` (``max``)
    - ``L_H = −entropy_loss_scale · mean(entropy)``, entropy summed over action dimensions
    - ``kl = mean(exp(r) − 1 − r)``, ``clip_fraction = mean(|ρ − 1| > ratio_clip)``

    ``mean(x) = Σ w x / Σ w`` with w = 1 on valid rows and 0 elsewhere: rows that are not valid are dropped
    first. Without any valid row every mean and gradient is 0 (and `update` passes over it). ``network`` holds
    `forward`'s keyword arguments; ``functions`` stand for `forward` and `backward`.
    """
    keep = np.asarray(valid, bool)
    observations, actions, log_probs, values, advantages, returns = (
        np.asarray(x, np.float64)[keep] for x in (observations, actions, log_probs, values, advantages, returns)
    )
    divisor = max(int(keep.sum()), 1)
    run, back = functions or (forward, backward)
    output, value = run(parameters, observations, **network)

    def mean(x: AnyArray) -> float:
        return float(x.sum()) / divisor

    # the distribution: log-probability, entropy and their derivatives with respect to the policy output
    if distribution == "gaussian":
        actions = actions.reshape(output.shape)
        raw_log_std = parameters["policy.log_std"]
        new_log_probs = gaussian_log_prob(output, raw_log_std, actions, min_log_std, max_log_std)
        entropy = gaussian_entropy(output, raw_log_std, min_log_std, max_log_std)
        std = np.exp(np.clip(raw_log_std, min_log_std, max_log_std))
        z = (actions - output) / std
        d_log_prob, d_entropy = z / std, np.zeros_like(output)
    elif distribution == "categorical":
        new_log_probs, entropy = categorical_log_prob(output, actions), categorical_entropy(output)
        log_p = log_softmax(output)
        chosen = np.eye(output.shape[1])[actions.astype(np.int64).reshape(len(output))]
        d_log_prob, d_entropy = chosen - np.exp(log_p), -np.exp(log_p) * (log_p + entropy[:, None])
    else:
        raise ValueError(f"unknown distribution {distribution!r}")

    # policy: the derivative of the minimum is 0 where the clipped branch is the smaller one; d ρ / d logp = ρ
    r = new_log_probs - log_probs
    ratio = np.exp(r)
    free, clipped = advantages * ratio, advantages * np.clip(ratio, 1.0 - ratio_clip, 1.0 + ratio_clip)
    by_log_prob = -np.where(free <= clipped, free, 0.0) / divisor
    by_entropy = np.full(len(ratio), -entropy_loss_scale / divisor)
    policy_gradient = by_log_prob[:, None] * d_log_prob + by_entropy[:, None] * d_entropy

    # value: V_c does not move with V outside the clip
    inside = (np.abs(value - values) <= value_clip) | (value_clip <= 0)
    limited = values + np.clip(value - values, -value_clip, value_clip) if value_clip > 0 else value
    free_error, limited_error = (returns - value) ** 2, (returns - limited) ** 2
    if value_loss == "skrl":
        error, moves = limited_error, inside
    elif value_loss == "max":
        error, moves = np.maximum(free_error, limited_error), inside | (free_error > limited_error)
    else:
        raise ValueError(f"unknown value_loss {value_loss!r}")
    value_gradient = value_loss_scale * np.where(moves, -2.0 * (returns - value), 0.0) / divisor

    gradient = back(parameters, observations, policy_gradient, value_gradient, **network)
    if distribution == "gaussian" and not fixed_log_std:
        by_log_std = by_log_prob[:, None] * (z**2 - 1.0) + by_entropy[:, None]
        unclipped = (raw_log_std >= min_log_std) & (raw_log_std <= max_log_std)
        gradient["policy.log_std"] = by_log_std.sum(axis=0) * unclipped

    policy_loss, critic_loss = -mean(np.minimum(free, clipped)), value_loss_scale * mean(error)
    entropy_loss = -entropy_loss_scale * mean(entropy)
    return Loss(
        total=policy_loss + critic_loss + entropy_loss,
        policy=policy_loss,
        value=critic_loss,
        entropy=entropy_loss,
        mean_entropy=mean(entropy),
        kl=mean(ratio - 1.0 - r),
        clip_fraction=mean(np.abs(ratio - 1.0) > ratio_clip),
        gradient=gradient,
    )


# ---------------------------------------------------------------------------------------------- optimisation


def global_norm(gradient: Parameters) -> float:
    """``sqrt(Σ g²)`` over every element of every parameter."""
    return math.sqrt(sum(float((g**2).sum()) for g in gradient.values()))


def clip_gradients(gradient: Parameters, max_norm: float) -> Parameters:
    """``g · min(1, max_norm / (norm + 1e-6))`` with one joint norm; off when ``max_norm ≤ 0``."""
    coefficient = 1.0 if max_norm <= 0 else min(1.0, max_norm / (global_norm(gradient) + 1e-6))
    return {name: g * coefficient for name, g in gradient.items()}


class Adam:
    """torch's Adam: β = (0.9, 0.999), eps outside the square root, bias correction, no weight decay."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.step_count = 0
        self.first: Parameters = {}
        self.second: Parameters = {}

    def step(self, parameters: Parameters, gradient: Parameters, learning_rate: float) -> Parameters:
        """The new parameters.

        ``m ← β1 m + (1−β1) g``, ``v ← β2 v + (1−β2) g²``, ``p ← p − lr · m̂ / (√v̂ + eps)`` with
        ``m̂ = m / (1−β1^k)``, ``v̂ = v / (1−β2^k)`` at the k-th step.
        """
        self.step_count += 1
        updated = {}
        for name, p in parameters.items():
            g, zero = gradient[name], np.zeros_like(p)
            self.first[name] = self.beta1 * self.first.get(name, zero) + (1 - self.beta1) * g
            self.second[name] = self.beta2 * self.second.get(name, zero) + (1 - self.beta2) * g**2
            m_hat = self.first[name] / (1 - self.beta1**self.step_count)
            v_hat = self.second[name] / (1 - self.beta2**self.step_count)
            updated[name] = p - learning_rate * m_hat / (np.sqrt(v_hat) + self.eps)
        return updated


def kl_adaptive(
    lr: float,
    kl: float,
    threshold: float,
    kl_factor: float = 2.0,
    lr_factor: float = 1.5,
    min_lr: float = 1e-6,
    max_lr: float = 1e-2,
) -> float:
    """skrl's KLAdaptiveLR.

    ``kl > threshold · kl_factor``: lr / lr_factor, at least min_lr; ``kl < threshold / kl_factor``:
    lr · lr_factor, at most max_lr; else lr as it is, even outside the limits.
    """
    if kl > threshold * kl_factor:
        return max(lr / lr_factor, min_lr)
    if kl < threshold / kl_factor:
        return min(lr * lr_factor, max_lr)
    return lr


# ---------------------------------------------------------------------------------------------- the update


@dataclass
class Minibatch:
    """One minibatch of an update; not ``applied`` when its KL was above the threshold."""

    epoch: int
    loss: Loss
    gradient_norm: float
    applied: bool


@dataclass
class Update:
    """Everything the update leaves behind; the arguments of `update` are not modified."""

    parameters: Parameters
    adam: Adam
    learning_rate: float
    observation_scaler: RunningStandardScaler | None
    value_scaler: RunningStandardScaler | None
    valid: Mask  # [T, N]
    values: Array  # [T, N] the network's old outputs
    advantages: Array  # [T, N] normalised under `rollout` only
    returns: Array  # [T, N] normalised
    epoch_kls: list[float]
    minibatches: list[Minibatch]


def targets(
    *,
    rewards: AnyArray,
    values: AnyArray,
    terminated: AnyArray,
    truncated: AnyArray,
    ended_before: AnyArray,
    value_scaler: RunningStandardScaler | None,
    discount_factor: float,
    gae_lambda: float,
    time_limit_bootstrap: bool = True,
    rewards_shaper_scale: float = 1.0,
    advantage_normalization: str = "rollout",
) -> tuple[Mask, Array, Array, Array]:
    """Steps 1 and 2 of `update`: (valid, old values, advantages, returns), all [T, N].

    ``value_scaler`` is modified.
    """
    terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
    valid = valid_rows(terminated | truncated, ended_before)
    values = outputs = np.asarray(values, np.float64)
    if value_scaler is not None:
        values = value_scaler.inverse(values[..., None])[..., 0]
    advantages, returns = gae(
        rewards=rewards_shaper_scale * np.asarray(rewards, np.float64),
        values=values,
        terminated=terminated,
        truncated=truncated,
        discount_factor=discount_factor,
        gae_lambda=gae_lambda,
        time_limit_bootstrap=time_limit_bootstrap,
    )
    if advantage_normalization == "rollout":
        advantages = normalize_advantages(advantages, valid)
    if value_scaler is not None:
        value_scaler.absorb(returns[valid][:, None])
        returns = value_scaler.normalize(returns[..., None])[..., 0]
    # The clip is around what the network itself said: old values in new units would already be off centre.
    return valid, outputs[:-1], advantages, returns


def _parts(permutation: AnyArray, mini_batches: int, valid: AnyArray, sequences: AnyArray) -> list[Any]:
    """The sequences of every minibatch that has a valid row, and all their rows."""
    parts = [(chosen, sequences[chosen].ravel()) for chosen in np.array_split(permutation, mini_batches)]
    return [(chosen, rows) for chosen, rows in parts if valid[rows].any()]


def update(
    parameters: Parameters,
    adam: Adam,
    *,
    observations: AnyArray,  # [T, N, O] raw
    actions: AnyArray,  # [T, N, A], or [T, N] discrete
    log_probs: AnyArray,  # [T, N] as of the rollout
    values: AnyArray,  # [T+1, N] the network's output in the rollout (normalised scale)
    rewards: AnyArray,  # [T, N] raw
    terminated: AnyArray,  # [T, N]
    truncated: AnyArray,  # [T, N]
    ended_before: AnyArray,  # [N]
    permutations: AnyArray,  # [epochs, T*N]; row = t * N + n
    mini_batches: int,
    learning_rate: float,
    observation_scaler: RunningStandardScaler | None = None,
    value_scaler: RunningStandardScaler | None = None,
    discount_factor: float = 0.99,
    gae_lambda: float = 0.95,
    time_limit_bootstrap: bool = True,
    rewards_shaper_scale: float = 1.0,
    advantage_normalization: str = "rollout",
    observation_statistics: str = "skrl",
    grad_norm_clip: float = 0.5,
    kl_threshold: float = 0.0,
    schedule: Callable[[float, float], float] | None = None,
    recurrent: Recurrent | None = None,
    **loss_options: Any,
) -> Update:
    """One member's whole update, in the order of design §5.

    1. values ← inverse(values); GAE on scaled rewards; advantages normalised over valid rows (``rollout``)
    2. value statistics absorb the valid returns once, then returns are normalised with them; old values stay the
       network's outputs
    3. per epoch, per part of ``array_split(permutation, mini_batches)``: in epoch 0 the observation
       statistics absorb the part's valid rows (``observation_statistics="skrl"``), then it is normalised;
       loss; if ``kl_threshold > 0`` and its KL is above, this and the epoch's other parts are skipped; joint
       clip; Adam; a part without a valid row is passed over
    4. per epoch ``learning_rate ← schedule(learning_rate, kl)``, kl the mean over the parts whose loss was
       computed, the stopping one included; not a number if there were none
    5. ``observation_statistics="frozen"``: they absorb the rollout's valid rows now, after the last epoch

    ``loss_options`` go to `loss` (and from there to `forward`). With ``recurrent``, permutations are of sequences
    [epochs, Q], of which q = k N + n are the steps k L to k L + L − 1 of environment n.
    """
    if advantage_normalization not in ("rollout", "minibatch", "none"):
        raise ValueError(f"unknown advantage_normalization {advantage_normalization!r}")
    if observation_statistics not in ("skrl", "frozen"):
        raise ValueError(f"unknown observation_statistics {observation_statistics!r}")
    adam, observation_scaler, value_scaler = copy.deepcopy((adam, observation_scaler, value_scaler))
    valid, old_values, advantages, returns = targets(
        rewards=rewards,
        values=values,
        terminated=terminated,
        truncated=truncated,
        ended_before=ended_before,
        value_scaler=value_scaler,
        discount_factor=discount_factor,
        gae_lambda=gae_lambda,
        time_limit_bootstrap=time_limit_bootstrap,
        rewards_shaper_scale=rewards_shaper_scale,
        advantage_normalization=advantage_normalization,
    )
    row_count = valid.size
    flat: dict[str, NDArray[Any]] = {
        "observations": np.asarray(observations, np.float64).reshape(row_count, -1),
        "actions": np.asarray(actions).reshape(row_count, -1),
        "log_probs": np.asarray(log_probs, np.float64).reshape(row_count),
        "values": old_values.reshape(row_count),
        "advantages": advantages.reshape(row_count),
        "returns": returns.reshape(row_count),
        "valid": valid.reshape(row_count),
    }
    num_envs = valid.shape[1]
    length = 1 if recurrent is None else recurrent.begins.shape[1]
    sequences = np.arange(row_count).reshape(-1, length, num_envs).transpose(0, 2, 1).reshape(-1, length)
    epoch_kls, minibatches = [], []
    for epoch, permutation in enumerate(np.asarray(permutations)):
        if sorted(permutation) != list(range(len(sequences))):
            raise ValueError(f"epoch {epoch}: not a permutation of {len(sequences)} rows")
        kls = []
        for chosen, rows in _parts(permutation, mini_batches, flat["valid"], sequences):
            batch = {name: array[rows] for name, array in flat.items()}
            if observation_scaler is not None:
                if epoch == 0 and observation_statistics == "skrl":
                    observation_scaler.absorb(batch["observations"][batch["valid"]])
                batch["observations"] = observation_scaler.normalize(batch["observations"])
            if advantage_normalization == "minibatch":
                batch["advantages"] = normalize_advantages(batch["advantages"], batch["valid"])
            functions = recurrent and recurrent.functions(chosen, batch["observations"], batch["valid"])
            result = loss(parameters, **batch, functions=functions, **loss_options)
            kls.append(result.kl)
            stop = kl_threshold > 0 and result.kl > kl_threshold
            minibatches.append(Minibatch(epoch, result, global_norm(result.gradient), not stop))
            if stop:
                break
            parameters = adam.step(parameters, clip_gradients(result.gradient, grad_norm_clip), learning_rate)
        epoch_kls.append(float(np.mean(kls)) if kls else math.nan)
        if schedule is not None:
            learning_rate = schedule(learning_rate, epoch_kls[-1])
    if observation_scaler is not None and observation_statistics == "frozen":
        observation_scaler.absorb(flat["observations"][flat["valid"]])

    return Update(
        parameters=parameters,
        adam=adam,
        learning_rate=learning_rate,
        observation_scaler=observation_scaler,
        value_scaler=value_scaler,
        valid=valid,
        values=old_values,
        advantages=advantages,
        returns=returns,
        epoch_kls=epoch_kls,
        minibatches=minibatches,
    )
