"""The oracle against arithmetic by hand, central differences, torch's optimiser and numpy's statistics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import oracle

Array = oracle.Array


def column(*numbers: float) -> Array:
    """[T] numbers as [T, N = 1]."""
    return np.array(numbers, np.float64)[:, None]


# ---------------------------------------------------------------------------------------------- advantages

# γ = 0.9, λ = 0.5, γλ = 0.45; r = 1, 2, 3; V = 1, 2, 3, 4
HAND: dict[str, Any] = {
    "rewards": column(1, 2, 3),
    "values": column(1, 2, 3, 4),
    "discount_factor": 0.9,
    "gae_lambda": 0.5,
}
NONE, LAST, MIDDLE = column(0, 0, 0), column(0, 0, 1), column(0, 1, 0)


@pytest.mark.parametrize(
    ("terminated", "truncated", "bootstrap", "expected"),
    [
        # δ0 = 1 + .9·2 − 1 = 1.8, δ1 = 2 + .9·3 − 2 = 2.7, δ2 = 3 + .9·4 − 3 = 3.6
        # A2 = 3.6, A1 = 2.7 + .45·3.6 = 4.32, A0 = 1.8 + .45·4.32 = 3.744
        (NONE, NONE, True, (3.744, 4.32, 3.6)),
        # terminated at 2: δ2 = 3 − 3 = 0; A1 = 2.7, A0 = 1.8 + .45·2.7 = 3.015
        (LAST, NONE, True, (3.015, 2.7, 0.0)),
        # truncated at 2: δ2 keeps γV(4): nothing follows inside the rollout, so as without an end
        (NONE, LAST, True, (3.744, 4.32, 3.6)),
        # ... unless truncation counts as termination
        (NONE, LAST, False, (3.015, 2.7, 0.0)),
        # truncated at 1: A2 = 3.6 is cut off, A1 = δ1 = 2.7 with V(final observation) = 3, A0 = 3.015
        (NONE, MIDDLE, True, (3.015, 2.7, 3.6)),
        # terminated at 1: A1 = 2 − 2 = 0, A0 = δ0 = 1.8
        (MIDDLE, NONE, True, (1.8, 0.0, 3.6)),
        (NONE, MIDDLE, False, (1.8, 0.0, 3.6)),
        # both flags at once: a termination
        (MIDDLE, MIDDLE, True, (1.8, 0.0, 3.6)),
    ],
)
def test_gae_by_hand(terminated: Array, truncated: Array, bootstrap: bool, expected: tuple[float, ...]) -> None:
    arguments = {**HAND, "terminated": terminated, "truncated": truncated, "time_limit_bootstrap": bootstrap}
    advantages, returns = oracle.gae(**arguments)
    np.testing.assert_allclose(advantages[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(returns[:, 0], np.add(expected, [1, 2, 3]), atol=1e-12)
    np.testing.assert_allclose(oracle.brute_force_advantages(**arguments)[:, 0], expected, atol=1e-12)


@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize(("discount_factor", "gae_lambda"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_gae_is_the_sum_over_the_episode(discount_factor: float, gae_lambda: float, bootstrap: bool) -> None:
    rng = np.random.default_rng(0)
    arguments: dict[str, Any] = {
        "rewards": rng.normal(size=(40, 5)),
        "values": rng.normal(size=(41, 5)),
        "terminated": rng.random((40, 5)) < 0.15,
        "truncated": rng.random((40, 5)) < 0.15,
        "discount_factor": discount_factor,
        "gae_lambda": gae_lambda,
        "time_limit_bootstrap": bootstrap,
    }
    assert (arguments["terminated"] | arguments["truncated"]).sum() > 30
    np.testing.assert_allclose(
        oracle.gae(**arguments)[0], oracle.brute_force_advantages(**arguments), rtol=1e-12, atol=1e-12
    )


def test_reset_rows_do_not_reach_their_neighbours() -> None:
    rng = np.random.default_rng(1)
    ended = rng.random((30, 4)) < 0.2
    ended[1:] &= ~ended[:-1]  # the dummy row itself ends nothing
    rewards, values, no = rng.normal(size=(30, 4)), rng.normal(size=(31, 4)), np.zeros((30, 4), bool)
    valid = oracle.valid_rows(ended, np.array([True, False, False, True]))
    assert valid[0].tolist() == [False, True, True, False]
    for terminated, truncated in ((ended, no), (no, ended)):
        clean, poisoned = (
            oracle.gae(
                rewards=np.where(valid, rewards, poison),
                values=values,
                terminated=terminated,
                truncated=truncated,
                discount_factor=0.99,
                gae_lambda=0.95,
            )[0]
            for poison in (0.0, 1e6)
        )
        assert np.array_equal(clean[valid], poisoned[valid])
        assert not np.array_equal(clean, poisoned)


def test_valid_rows_by_hand() -> None:
    # environment 0 ends at step 1 (dummy row 2); environment 1 ended before (dummy row 0) and ends at 3
    ended = np.array([[0, 0], [1, 0], [0, 0], [0, 1]], bool)
    expected = [[True, False], [True, True], [False, True], [True, True]]
    assert oracle.valid_rows(ended, np.array([False, True])).tolist() == expected


def test_normalize_advantages() -> None:
    # valid 1, 2, 6: mean 3, unbiased variance (4 + 1 + 9) / 2 = 7
    advantages, valid = np.array([[1.0, 2.0], [1e6, 6.0]]), np.array([[True, True], [False, True]])
    normalized = oracle.normalize_advantages(advantages, valid)
    np.testing.assert_allclose(normalized[valid], np.array([-2.0, -1.0, 3.0]) / math.sqrt(7.0), rtol=1e-7)
    for few in ([[True, False], [False, False]], np.zeros((2, 2), bool)):
        assert np.array_equal(oracle.normalize_advantages(advantages, np.array(few)), advantages)


# ---------------------------------------------------------------------------------------------- statistics


def test_scaler_is_a_pseudo_row_and_the_data() -> None:
    """n rows of mean m, squared deviations S: mean n m/(1+n), M2 = 1 + S n/(n−1) + m² n/(1+n)."""
    rows = np.random.default_rng(0).normal(2.0, 3.0, (50, 3))
    scaler = oracle.RunningStandardScaler(3)
    scaler.absorb(rows)
    # the prior is a row at 0 with spread 1; skrl multiplies the unbiased variance by n, hence n/(n−1)
    spread = ((rows - rows.mean(axis=0)) ** 2).sum(axis=0)
    m2 = 1.0 + spread * 50 / 49 + rows.mean(axis=0) ** 2 * 50 / 51
    np.testing.assert_allclose(scaler.mean, np.vstack([np.zeros(3), rows]).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaler.variance, m2 / 51, rtol=1e-12)
    assert scaler.count == 51


def test_scaler_in_parts_is_numpy_over_everything() -> None:
    """The mean is exact in any split; the variance is too, but for skrl's n/(n−1) in every batch."""
    rng = np.random.default_rng(1)
    batches = [rng.normal(5.0, 2.0, (n, 2)) for n in (400, 300, 1, 500)]
    scaler = oracle.RunningStandardScaler(2)
    for batch in batches:
        scaler.absorb(batch)
    data = np.vstack([np.zeros((1, 2)), *batches])
    np.testing.assert_allclose(scaler.mean, data.mean(axis=0), rtol=1e-12)
    inflation = sum(b.var(axis=0, ddof=1) for b in batches if len(b) > 1)
    expected = (((data - data.mean(axis=0)) ** 2).sum(axis=0) + 1.0 + inflation) / len(data)
    np.testing.assert_allclose(scaler.variance, expected, rtol=1e-12)


def test_scaler_edges() -> None:
    scaler = oracle.RunningStandardScaler(1)
    scaler.absorb(np.empty((0, 1)))
    assert (scaler.count, scaler.mean[0], scaler.variance[0]) == (1.0, 0.0, 1.0)
    scaler.absorb(np.array([[4.0]]))  # c = n = 1: M2 = 1 + 16/2 = 9, mean 2, variance 4.5
    assert (scaler.count, scaler.mean[0], scaler.variance[0]) == (2.0, 2.0, 4.5)
    x = np.array([[2.0], [3.0], [1e9], [-1e9]])
    unit = 1.0 / (math.sqrt(4.5) + 1e-8)
    np.testing.assert_allclose(scaler.normalize(x)[:, 0], [0.0, unit, 5.0, -5.0], rtol=1e-12)
    back = scaler.inverse(np.array([[0.0], [1.0], [7.0]]))[:, 0]
    np.testing.assert_allclose(back, 2.0 + math.sqrt(4.5) * np.array([0.0, 1.0, 5.0]), rtol=1e-12)


# ---------------------------------------------------------------------------------------------- network


def central_difference(f: Callable[[oracle.Parameters], float], parameters: oracle.Parameters) -> Any:
    """(f(p + h) − f(p − h)) / 2h for every element of every parameter."""
    gradient, h = {}, 1e-6
    for name, p in parameters.items():
        gradient[name] = np.zeros_like(p)
        for index in np.ndindex(p.shape):
            both = []
            for sign in (1.0, -1.0):
                moved = {**parameters, name: p.copy()}
                moved[name][index] += sign * h
                both.append(f(moved))
            gradient[name][index] = (both[0] - both[1]) / (2 * h)
    return gradient


def assert_same_gradient(actual: oracle.Parameters, expected: oracle.Parameters) -> None:
    assert actual.keys() == expected.keys()
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-8, err_msg=name)


def test_forward_by_hand() -> None:
    parameters = {
        "policy.net.0.weight": np.array([[1.0, 2.0], [-1.0, 0.0]]),  # [out, in]
        "policy.net.0.bias": np.array([0.5, 0.0]),
        "policy.head.weight": np.array([[1.0, 1.0]]),
        "policy.head.bias": np.array([-1.0]),
        "value.head.weight": np.array([[2.0, 3.0]]),
        "value.head.bias": np.array([1.0]),
    }
    # x = (1, 1): z = (3.5, −1), relu h = (3.5, 0); mean = 2·tanh(2.5); V = 7 + 1
    x = np.array([[1.0, 1.0]])
    options: dict[str, Any] = {"hidden_activations": "relu", "output_activation": "tanh", "output_scale": 2.0}
    policy, value = oracle.forward(parameters, x, **options, separate=False)
    np.testing.assert_allclose(policy, [[2.0 * math.tanh(2.5)]])
    np.testing.assert_allclose(value, [8.0])
    # separate without value.net: the value head reads the observation: 2 + 3 + 1
    np.testing.assert_allclose(oracle.forward(parameters, x, **options, separate=True)[1], [6.0])


@pytest.mark.parametrize("name", sorted(oracle.ACTIVATIONS))
def test_activation_slope_and_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    function, slope = oracle.ACTIVATIONS[name]
    x = np.linspace(-6.03, 6.01, 81)
    np.testing.assert_allclose(slope(x), (function(x + 1e-6) - function(x - 1e-6)) / 2e-6, atol=1e-8)
    theirs = (lambda v: v) if name == "identity" else getattr(torch.nn.functional, name)
    np.testing.assert_allclose(function(x), theirs(torch.tensor(x)).numpy(), rtol=1e-12, atol=1e-12)
    extremes = np.array([-1e4, 0.0, 1e4])
    assert np.isfinite(function(extremes)).all()
    assert np.isfinite(slope(extremes)).all()


# ---------------------------------------------------------------------------------------------- distributions


def test_gaussian_by_hand() -> None:
    # dimension 0: μ 0, σ 1, a 1: −1/2 − ½ log 2π; dimension 1: log_std 9 → clipped to 2, a = μ: −2 − ½ log 2π
    log_std, mean, actions = np.array([0.0, 9.0]), np.array([[0.0, 3.0]]), np.array([[1.0, 3.0]])
    half = 0.5 * math.log(2.0 * math.pi)
    np.testing.assert_allclose(oracle.gaussian_log_prob(mean, log_std, actions), [-2.5 - 2 * half])
    np.testing.assert_allclose(oracle.gaussian_entropy(mean, log_std), [2 * (0.5 + half) + 2.0])


def test_categorical_by_hand() -> None:
    # p = (1/4, 3/4); shifting the logits changes nothing
    logits = np.log(np.array([[1.0, 3.0], [1.0, 3.0]])) + 700.0
    np.testing.assert_allclose(oracle.categorical_log_prob(logits, np.array([0, 1])), np.log([0.25, 0.75]), rtol=1e-10)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    np.testing.assert_allclose(oracle.categorical_entropy(logits), [entropy, entropy], rtol=1e-10)


# ---------------------------------------------------------------------------------------------- loss


def one_row(ratio: float, advantage: float, **changes: Any) -> oracle.Loss:
    """One valid row of the given ratio (set by log_probs), V = 2, V_old = 1, R = 3; one poison row."""
    parameters = {
        "policy.head.weight": np.zeros((2, 1)),  # uniform: log p = −log 2
        "policy.head.bias": np.zeros(2),
        "value.head.weight": np.zeros((1, 1)),
        "value.head.bias": np.array([2.0]),
    }
    batch = {
        "observations": np.zeros((2, 1)),
        "actions": np.array([1, 0]),
        "log_probs": np.array([-math.log(2.0) - math.log(ratio), 50.0]),
        "values": np.array([1.0, -1e6]),
        "advantages": np.array([advantage, 1e6]),
        "returns": np.array([3.0, 1e6]),
        "valid": np.array([True, False]),
    }
    return oracle.loss(parameters, **{**batch, "distribution": "categorical", **changes})


@pytest.mark.parametrize(
    ("ratio", "advantage", "policy_loss", "slope"),
    [
        # −min(A ρ, A clip(ρ, .8, 1.2)) and −d/dlogp (0 where the clip binds)
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),
        (0.5, 2.0, -1.0, -1.0),
        (1.5, -2.0, 3.0, 3.0),
        (0.5, -2.0, 1.6, 0.0),
    ],
)
def test_policy_loss_by_hand(ratio: float, advantage: float, policy_loss: float, slope: float) -> None:
    result = one_row(ratio, advantage)
    assert result.policy == pytest.approx(policy_loss)
    # d logp / d logit = (−½, ½)
    expected = slope * np.array([-0.5, 0.5])
    np.testing.assert_allclose(result.gradient["policy.head.bias"], expected, atol=1e-12)
    assert result.kl == pytest.approx(ratio - 1.0 - math.log(ratio), abs=1e-12)
    assert result.clip_fraction == (0.0 if ratio == 1.0 else 1.0)


@pytest.mark.parametrize(
    ("options", "value_loss", "slope"),
    [
        # V = 2, V_old = 1, R = 3. Off: (3−2)² = 1, slope −2
        ({"value_clip": 0.0}, 1.0, -2.0),
        ({"value_clip": -1.0}, 1.0, -2.0),
        # clip 2 does not bind; clip .5 binds: V_c = 1.5, (3−1.5)² = 2.25, slope 0, also as the maximum
        ({"value_clip": 2.0}, 1.0, -2.0),
        ({"value_clip": 0.5}, 2.25, 0.0),
        ({"value_clip": 0.5, "value_loss": "max"}, 2.25, 0.0),
        # R = 0: V_c = 1.5 errs by 2.25, V = 2 by 4: skrl takes the first, max the second (slope 2·2)
        ({"value_clip": 0.5, "returns": np.zeros(2)}, 2.25, 0.0),
        ({"value_clip": 0.5, "returns": np.zeros(2), "value_loss": "max"}, 4.0, 4.0),
        ({"value_clip": 0.0, "value_loss_scale": 3.0}, 3.0, -6.0),
    ],
)
def test_value_loss_by_hand(options: dict[str, Any], value_loss: float, slope: float) -> None:
    result = one_row(1.0, 0.0, **options)
    assert result.value == pytest.approx(value_loss)
    assert result.gradient["value.head.bias"][0] == pytest.approx(slope)


def test_entropy_loss_and_total_by_hand() -> None:
    result = one_row(1.0, 2.0, entropy_loss_scale=0.1, value_clip=0.0)
    assert result.mean_entropy == pytest.approx(math.log(2.0))
    assert result.entropy == pytest.approx(-0.1 * math.log(2.0))
    assert result.total == pytest.approx(-2.0 + 1.0 - 0.1 * math.log(2.0))
    assert oracle.global_norm(one_row(1.0, 2.0, valid=np.zeros(2, bool)).gradient) == 0.0


def random_problem(
    seed: int, *, gaussian: bool, separate: bool, rows: int = 12
) -> tuple[oracle.Parameters, dict[str, Any]]:
    """Small random parameters and a minibatch in which every clip binds in some rows and not in others."""
    rng = np.random.default_rng(seed)
    parameters = oracle.init_parameters(
        rng, observations=3, actions=2, hidden=[5, 4], separate=separate, gaussian=gaussian
    )
    network: dict[str, Any] = {
        "hidden_activations": ["elu", "tanh"],
        "output_activation": "tanh",
        "output_scale": 2.0,
        "separate": separate,
    }
    observations = rng.normal(size=(rows, 3))
    output, value = oracle.forward(parameters, observations, **network)
    if gaussian:
        parameters["policy.log_std"] = np.array([-0.3, 0.4])
        actions: Any = output + rng.normal(size=output.shape)
        log_probs = oracle.gaussian_log_prob(output, parameters["policy.log_std"], actions)
    else:
        actions = rng.integers(2, size=rows)
        log_probs = oracle.categorical_log_prob(output, actions)
    return parameters, {
        "observations": observations,
        "actions": actions,
        "log_probs": log_probs + 0.4 * rng.normal(size=rows),
        "values": value + 0.5 * rng.normal(size=rows),
        "advantages": rng.normal(size=rows),
        "returns": rng.normal(size=rows),
        "valid": rng.random(rows) < 0.8,
        "distribution": "gaussian" if gaussian else "categorical",
        **network,
    }


@pytest.mark.parametrize("separate", [True, False], ids=["separate", "shared"])
@pytest.mark.parametrize("gaussian", [True, False], ids=["gaussian", "categorical"])
@pytest.mark.parametrize(
    "options",
    [
        {"value_clip": 0.0},
        {"value_clip": 0.3, "entropy_loss_scale": 0.05, "value_loss_scale": 2.0},
        {"value_clip": 0.3, "value_loss": "max"},
    ],
    ids=["plain", "skrl", "max"],
)
def test_gradient_against_central_differences(options: dict[str, Any], gaussian: bool, separate: bool) -> None:
    parameters, batch = random_problem(3, gaussian=gaussian, separate=separate)
    result = oracle.loss(parameters, **batch, **options)
    assert 0.0 < result.clip_fraction < 1.0
    if options["value_clip"] > 0:
        _, value = oracle.forward(
            parameters,
            batch["observations"],
            hidden_activations=["elu", "tanh"],
            output_activation="tanh",
            output_scale=2.0,
            separate=separate,
        )
        bound = np.abs(value - batch["values"])[batch["valid"]] > options["value_clip"]
        assert 0 < bound.sum() < len(bound)
    expected = central_difference(lambda p: oracle.loss(p, **batch, **options).total, parameters)
    assert_same_gradient(result.gradient, expected)


def test_log_std_outside_its_limits_or_fixed_has_no_gradient() -> None:
    parameters, batch = random_problem(4, gaussian=True, separate=True)
    options: dict[str, Any] = {"min_log_std": -0.1, "max_log_std": 2.0, "entropy_loss_scale": 0.1}
    gradient = oracle.loss(parameters, **batch, **options).gradient
    assert gradient["policy.log_std"][0] == 0.0
    assert gradient["policy.log_std"][1] != 0.0
    expected = central_difference(lambda p: oracle.loss(p, **batch, **options).total, parameters)
    assert_same_gradient(gradient, expected)
    assert not oracle.loss(parameters, **batch, fixed_log_std=True).gradient["policy.log_std"].any()


@pytest.mark.parametrize("gaussian", [True, False])
def test_rows_that_are_not_valid_change_nothing(gaussian: bool) -> None:
    parameters, batch = random_problem(5, gaussian=gaussian, separate=True)
    keep = batch["valid"]
    assert 0 < keep.sum() < len(keep)
    arrays = ("observations", "actions", "log_probs", "values", "advantages", "returns")
    poisoned = {**batch, **{name: batch[name].copy() for name in arrays}}
    for name in ("log_probs", "values", "advantages", "returns"):
        poisoned[name][~keep] = 1e6
    alone = {**batch, **{name: batch[name][keep] for name in (*arrays, "valid")}}
    results = [oracle.loss(parameters, **b, entropy_loss_scale=0.1) for b in (batch, poisoned, alone)]
    for other in results[1:]:
        assert (other.total, other.kl) == (results[0].total, results[0].kl)
        assert_same_gradient(other.gradient, results[0].gradient)


# ---------------------------------------------------------------------------------------------- optimisation


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_adam_and_clip_are_torchs(max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    parameters: oracle.Parameters = {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=5)}
    theirs = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in parameters.items()}
    optimizer, adam = torch.optim.Adam(theirs.values(), lr=1e-3), oracle.Adam()
    for step in range(20):
        gradient = {name: rng.normal(size=p.shape) for name, p in parameters.items()}
        lr = 1e-3 * (1 + step % 3)
        parameters = adam.step(parameters, oracle.clip_gradients(gradient, max_norm), lr)
        optimizer.param_groups[0]["lr"] = lr
        for name, p in theirs.items():
            p.grad = torch.tensor(gradient[name])
        torch.nn.utils.clip_grad_norm_(theirs.values(), max_norm)
        optimizer.step()
    for name, p in theirs.items():
        np.testing.assert_allclose(parameters[name], p.detach().numpy(), rtol=1e-10)


def test_clip_by_hand() -> None:
    gradient = {"a": np.array([3.0]), "b": np.array([4.0])}  # norm 5
    clipped = oracle.clip_gradients(gradient, 1.0)
    assert clipped["a"][0] == pytest.approx(3.0 / 5.000001, rel=1e-12)
    for off in (0.0, -1.0, 10.0):
        assert oracle.clip_gradients(gradient, off)["b"][0] == 4.0


@pytest.mark.parametrize(
    ("lr", "kl", "expected"),
    [
        # threshold .01: above .02 down, below .005 up, between unchanged (both limits exclusive)
        (3e-3, 0.03, 2e-3),
        (2e-3, 0.004, 3e-3),
        (2e-3, 0.02, 2e-3),
        (2e-3, 0.005, 2e-3),
        (1.2e-6, 1.0, 1e-6),
        (9e-3, 0.0, 1e-2),
        (0.5, 0.01, 0.5),
    ],
)
def test_kl_adaptive(lr: float, kl: float, expected: float) -> None:
    assert oracle.kl_adaptive(lr, kl, 0.01) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------- the update

T, N = 6, 4
NETWORK: dict[str, Any] = {"hidden_activations": "tanh", "separate": True}


def rollout(seed: int = 0) -> tuple[oracle.Parameters, dict[str, Any]]:
    """Parameters and everything `update` needs, as a consistent rollout of random observations."""
    rng = np.random.default_rng(seed)
    parameters = oracle.init_parameters(rng, observations=3, actions=2, hidden=[5], separate=True)
    scaler, value_scaler = oracle.RunningStandardScaler(3), oracle.RunningStandardScaler(1)
    scaler.absorb(rng.normal(1.0, 2.0, (50, 3)))
    value_scaler.absorb(rng.normal(3.0, 2.0, (50, 1)))
    observations = rng.normal(1.0, 2.0, (T + 1, N, 3))
    output, value = oracle.forward(parameters, scaler.normalize(observations).reshape(-1, 3), **NETWORK)
    mean = output.reshape(T + 1, N, 2)[:-1]
    actions = mean + rng.normal(size=mean.shape)
    terminated, truncated = rng.random((T, N)) < 0.15, rng.random((T, N)) < 0.15
    return parameters, {
        "observations": observations[:-1],
        "actions": actions,
        "log_probs": oracle.gaussian_log_prob(mean, parameters["policy.log_std"], actions),
        "values": value.reshape(T + 1, N),
        "rewards": rng.normal(1.0, 1.0, (T, N)),
        "terminated": terminated,
        "truncated": truncated,
        "ended_before": np.array([True, False, False, False]),
        "permutations": np.array([rng.permutation(T * N) for _ in range(3)]),
        "mini_batches": 5,
        "learning_rate": 1e-2,
        "value_clip": 1.0,
        "observation_scaler": scaler,
        "value_scaler": value_scaler,
        **NETWORK,
    }


def test_update_leaves_its_arguments_alone_and_repeats() -> None:
    parameters, arguments = rollout()
    adam = oracle.Adam()
    before = copy.deepcopy((parameters, arguments["observation_scaler"].__dict__))
    first, second = (oracle.update(parameters, adam, **arguments) for _ in range(2))
    assert adam.step_count == 0
    assert first.adam.step_count == 15
    assert_same_gradient(parameters, before[0])
    for name, value in before[1].items():
        assert np.array_equal(arguments["observation_scaler"].__dict__[name], value)
    for name in parameters:
        assert np.array_equal(first.parameters[name], second.parameters[name])
        assert not np.array_equal(first.parameters[name], parameters[name])


@pytest.mark.parametrize("bootstrap", [True, False])
def test_update_statistics_order(bootstrap: bool) -> None:
    """Value statistics absorb the (de-normalised) returns once, observation statistics each row once."""
    parameters, arguments = rollout()
    result = oracle.update(parameters, oracle.Adam(), **arguments, time_limit_bootstrap=bootstrap)
    valid = oracle.valid_rows(arguments["terminated"] | arguments["truncated"], arguments["ended_before"])
    assert 0 < valid.sum() < valid.size

    before: oracle.RunningStandardScaler = arguments["value_scaler"]
    values = math.sqrt(before.variance[0]) * arguments["values"] + before.mean[0]  # none is beyond ±5
    advantages, returns = oracle.gae(
        **{name: arguments[name] for name in ("rewards", "terminated", "truncated")},
        values=values,
        discount_factor=0.99,
        gae_lambda=0.95,
        time_limit_bootstrap=bootstrap,
    )
    after = copy.deepcopy(before)
    after.absorb(returns[valid][:, None])
    assert result.value_scaler is not None
    assert result.observation_scaler is not None
    assert result.value_scaler.__dict__ == after.__dict__
    np.testing.assert_allclose(result.returns, after.normalize(returns[..., None])[..., 0])
    np.testing.assert_array_equal(result.values, arguments["values"][:-1])
    np.testing.assert_allclose(result.advantages, oracle.normalize_advantages(advantages, valid))
    assert result.observation_scaler.count == arguments["observation_scaler"].count + valid.sum()


def test_first_ratio_is_one_only_when_frozen() -> None:
    parameters, arguments = rollout()
    skrl, frozen = (
        oracle.update(parameters, oracle.Adam(), **arguments, observation_statistics=rule)
        for rule in ("skrl", "frozen")
    )
    assert skrl.minibatches[0].loss.kl > 1e-6
    assert frozen.minibatches[0].loss.kl == pytest.approx(0.0, abs=1e-12)
    scaler = copy.deepcopy(arguments["observation_scaler"])
    scaler.absorb(arguments["observations"][frozen.valid])
    assert frozen.observation_scaler is not None
    np.testing.assert_allclose(frozen.observation_scaler.variance, scaler.variance, rtol=1e-12)


def test_reset_rows_do_not_reach_the_update() -> None:
    parameters, arguments = rollout()
    valid = oracle.valid_rows(arguments["terminated"] | arguments["truncated"], arguments["ended_before"])
    poisoned = {**arguments, "rewards": np.where(valid, arguments["rewards"], 1e6)}
    poisoned["log_probs"] = np.where(valid, arguments["log_probs"], 1e6)
    for normalization in ("rollout", "minibatch", "none"):
        clean, ruined = (
            oracle.update(parameters, oracle.Adam(), **a, advantage_normalization=normalization)
            for a in (arguments, poisoned)
        )
        for name in parameters:
            assert np.array_equal(clean.parameters[name], ruined.parameters[name])
        assert clean.epoch_kls == ruined.epoch_kls


def test_kl_threshold_skips_the_rest_of_the_epoch_and_counts() -> None:
    parameters, arguments = rollout()
    free = oracle.update(parameters, oracle.Adam(), **arguments)
    kls = [m.loss.kl for m in free.minibatches]
    # a threshold that the first two parts pass and the third does not
    threshold = 0.5 * (max(kls[:2]) + kls[2])
    assert max(kls[:2]) < threshold < kls[2], "choose another seed"
    result = oracle.update(parameters, oracle.Adam(), **arguments, kl_threshold=threshold)
    first = [m for m in result.minibatches if m.epoch == 0]
    assert [m.applied for m in first] == [True, True, False]
    assert result.epoch_kls[0] == pytest.approx(np.mean(kls[:3]))
    assert {m.epoch for m in result.minibatches} == {0, 1, 2}  # the next epoch starts again
    assert result.adam.step_count == sum(m.applied for m in result.minibatches)
    # statistics absorb the three parts that were looked at, and never the two that were skipped
    parts = np.array_split(arguments["permutations"][0], 5)
    seen = free.valid.reshape(-1)[np.concatenate(parts[:3])].sum()
    assert result.observation_scaler is not None
    assert result.observation_scaler.count == arguments["observation_scaler"].count + seen


def test_schedule_runs_once_per_epoch_and_is_used() -> None:
    parameters, arguments = rollout()
    calls: list[tuple[float, float]] = []

    def halve(lr: float, kl: float) -> float:
        calls.append((lr, kl))
        return lr / 2

    result = oracle.update(parameters, oracle.Adam(), **arguments, schedule=halve)
    assert [lr for lr, _ in calls] == [1e-2, 5e-3, 2.5e-3]
    assert [kl for _, kl in calls] == result.epoch_kls
    assert result.learning_rate == 1.25e-3
    means = [np.mean([m.loss.kl for m in result.minibatches if m.epoch == epoch]) for epoch in range(3)]
    np.testing.assert_allclose(result.epoch_kls, means)
    constant = oracle.update(parameters, oracle.Adam(), **arguments)
    assert not np.array_equal(constant.parameters["policy.head.bias"], result.parameters["policy.head.bias"])


def test_one_minibatch_update_is_its_pieces_put_together() -> None:
    parameters, arguments = rollout()
    arguments |= {"mini_batches": 1, "permutations": arguments["permutations"][:1]}
    result = oracle.update(parameters, oracle.Adam(), **arguments, grad_norm_clip=0.1, entropy_loss_scale=0.01)
    assert result.observation_scaler is not None
    batch = oracle.loss(
        parameters,
        observations=result.observation_scaler.normalize(arguments["observations"]).reshape(T * N, 3),
        actions=arguments["actions"].reshape(T * N, 2),
        log_probs=arguments["log_probs"].reshape(-1),
        values=result.values.reshape(-1),
        advantages=result.advantages.reshape(-1),
        returns=result.returns.reshape(-1),
        valid=result.valid.reshape(-1),
        entropy_loss_scale=0.01,
        value_clip=1.0,
        **NETWORK,
    )
    assert oracle.global_norm(batch.gradient) > 0.1
    assert result.minibatches[0].gradient_norm == pytest.approx(oracle.global_norm(batch.gradient))
    expected = oracle.Adam().step(parameters, oracle.clip_gradients(batch.gradient, 0.1), 1e-2)
    assert_same_gradient(result.parameters, expected)


def test_rewards_are_scaled_before_everything_else() -> None:
    parameters, arguments = rollout()
    scaled = {**arguments, "rewards": 0.1 * arguments["rewards"]}
    by_option = oracle.update(parameters, oracle.Adam(), **arguments, rewards_shaper_scale=0.1)
    by_hand = oracle.update(parameters, oracle.Adam(), **scaled)
    assert_same_gradient(by_option.parameters, by_hand.parameters)


def test_wrong_arguments_are_refused() -> None:
    parameters, arguments = rollout()
    for wrong in (
        {"advantage_normalization": "batch"},
        {"observation_statistics": "both"},
        {"permutations": np.zeros((1, T * N), int)},
        {"value_loss": "huber"},
        {"distribution": "beta"},
    ):
        with pytest.raises(ValueError):
            oracle.update(parameters, oracle.Adam(), **{**arguments, **wrong})
