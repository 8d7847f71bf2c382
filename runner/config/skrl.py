"""Every spelling that skrl has had for a key → the canonical one (skrl 2.x names).

Sources and the history of each rename: skrl 1.0 to 2.1.1. Two eras matter for meaning: up to 1.4 a value loss scale of
1.0 and value clipping off unless `clip_predicted_values`; from 2.0 a scale of 2.5 and clipping on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runner.config.expressions import activation_name
from runner.config.load import Key, Source, plain_copy
from runner.config.network import activation_list
from runner.errors import UserError

AGENT_RENAMES = {
    "lambda": "gae_lambda",
    "state_preprocessor": "observation_preprocessor",
    "state_preprocessor_kwargs": "observation_preprocessor_kwargs",
}
LEGACY_AGENT = {*AGENT_RENAMES, "clip_predicted_values"}
LEGACY_MODEL = {
    "input_shape",
    "hiddens",
    "hidden_activation",
    "output_shape",
    "output_activation",
    "output_scale",
}
SHAPES = {"STATES": "OBSERVATIONS", "OBSERVATIONS": "OBSERVATIONS", "ACTIONS": "ACTIONS", "ONE": "ONE"}
SCHEDULER_RENAMES = {"KLAdaptiveRL": "KLAdaptiveLR"}


def canonical(data: Mapping[str, Any], source: Source) -> tuple[dict[str, Any], list[str]]:
    """Translate one configuration; unknown keys pass through, for the schema to refuse.

    Args:
        data: a configuration in any spelling.
        source: names files and lines in errors.

    Returns:
        The canonical dict (a copy) and notes for the user on what was translated.

    Raises:
        UserError: two spellings of the same setting, or a legacy model that cannot be read.
    """
    notes: list[str] = []
    out = plain_copy(data)
    models = out.get("models")
    agent = out.get("agent")
    legacy = isinstance(agent, dict) and bool(LEGACY_AGENT & agent.keys())
    if isinstance(models, dict):
        for role, model in models.items():
            if isinstance(model, dict) and LEGACY_MODEL & model.keys():
                legacy = True
                models[role] = _network(model, ("models", role), source)
    if isinstance(agent, dict):
        _rename_agent(agent, source)
        if legacy:
            _defaults_of_1x(agent)
    if legacy:
        notes.append("read as a skrl 1.x configuration: 1.x names translated, 1.x defaults used")
    return out, notes


def canonical_override(key: Key, value: Any) -> tuple[Key, Any]:
    """The canonical key and value of one `a.b=value` whose key is not below `models`."""
    if len(key) >= 2 and key[0] == "agent":
        if key[1] == "clip_predicted_values":
            if value is False:
                return ("agent", "value_clip"), 0.0
            raise UserError(
                "command line: agent.clip_predicted_values: can only be switched off here; "
                "to clip, set agent.value_clip to the bound"
            )
        key = ("agent", AGENT_RENAMES.get(str(key[1]), key[1]), *key[2:])
        if key == ("agent", "learning_rate_scheduler"):
            value = SCHEDULER_RENAMES.get(value, value) if isinstance(value, str) else value
    return key, value


def _rename_agent(agent: dict[str, Any], source: Source) -> None:
    for old, new in AGENT_RENAMES.items():
        if old not in agent:
            continue
        if new in agent:
            raise UserError(
                f"{source.where(('agent', old))}: {old!r} and {new!r} are two names of one setting; keep one"
            )
        agent[new] = agent.pop(old)
    scheduler = agent.get("learning_rate_scheduler")
    if isinstance(scheduler, str):
        agent["learning_rate_scheduler"] = SCHEDULER_RENAMES.get(scheduler, scheduler)
    if agent.get("rewards_shaper_scale", 1.0) is None:
        agent.pop("rewards_shaper_scale")
    if "clip_predicted_values" in agent:
        clip = agent.pop("clip_predicted_values")
        if not isinstance(clip, bool):
            where = source.where(("agent", "clip_predicted_values"))
            raise UserError(f"{where}: found {clip!r}; allowed: True or False")
        if not clip:
            agent["value_clip"] = 0.0


def _defaults_of_1x(agent: dict[str, Any]) -> None:
    agent.setdefault("value_loss_scale", 1.0)
    agent.setdefault("value_clip", 0.0)


def _network(model: dict[str, Any], key: Key, source: Source) -> dict[str, Any]:
    """`input_shape, hiddens, …` → `network` and `output`, as skrl 1.3 converts them."""
    for new in ("network", "output"):
        if new in model:
            old = ", ".join(sorted(LEGACY_MODEL & model.keys()))
            raise UserError(f"{source.where((*key, new))}: {new!r} cannot be combined with {old}; keep one form")
    model = dict(model)
    where = {name: source.where((*key, name)) for name in LEGACY_MODEL}
    inputs = _shape(model.pop("input_shape", "Shape.STATES"), where["input_shape"], ("STATES", "OBSERVATIONS"))
    default_output = "Shape.ONE" if key[-1] == "value" else "Shape.ACTIONS"
    token = _shape(model.pop("output_shape", default_output), where["output_shape"], ("ACTIONS", "ONE"))
    hiddens = model.pop("hiddens", None) or []
    if not isinstance(hiddens, list):
        raise UserError(f"{where['hiddens']}: found {hiddens!r}; allowed: a list of layer sizes such as [64, 64]")
    activations = activation_list(
        model.pop("hidden_activation", None), [False] * len(hiddens), where["hidden_activation"]
    )
    activation = activation_name(model.pop("output_activation", ""), where["output_activation"])
    scale = model.pop("output_scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise UserError(f"{where['output_scale']}: found {scale!r}; allowed: a number")
    model["network"] = [{"name": "net", "input": inputs, "layers": hiddens, "activations": activations}]
    output = token if activation == "identity" else f"{activation}({token})"
    model["output"] = output if scale == 1.0 else f"{float(scale)} * {output}"
    return model


def _shape(value: Any, where: str, allowed: tuple[str, ...]) -> str:
    token = str(value).removeprefix("Shape.")
    if token not in allowed:
        choices = ", ".join(f"Shape.{name}" for name in allowed)
        raise UserError(f"{where}: found {value!r}; allowed: {choices}")
    return SHAPES[token]
