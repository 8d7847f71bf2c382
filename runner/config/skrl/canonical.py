"""Every spelling that skrl has had for a key → the canonical one (skrl 2.x names), with the defaults of its era."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runner.config import keys
from runner.config.load import Key, Source, dotted, plain_copy
from runner.config.marks import Mark, marked
from runner.config.network.expressions import LARGEST_NUMBER, activation_name
from runner.config.network.layers import activation_list, layer
from runner.config.numbers import number
from runner.config.schedules import without_effect
from runner.config.schema import Agent, is_a2c, is_class
from runner.config.skrl.algorithms import trained_as_ppo
from runner.config.skrl.eras import LEGACY_MODEL, MISSPELT_SCHEDULER, Era
from runner.config.skrl.shared import unread
from runner.errors import UserError, nearest

AGENT_RENAMES = {
    "lambda": "gae_lambda",
    "state_preprocessor": "observation_preprocessor",
    "state_preprocessor_kwargs": "observation_preprocessor_kwargs",
}
SHAPES = {"STATES": "OBSERVATIONS", "OBSERVATIONS": "OBSERVATIONS", "ACTIONS": "ACTIONS", "ONE": "ONE"}
SCHEDULER_RENAMES = {MISSPELT_SCHEDULER: "KLAdaptiveLR"}
PPOS = ("ratio_clip", "value_clip", "value_loss_scale", "kl_threshold")
"""Numbers of PPO's loss, which A2C of skrl 1.x does not know."""
EVALUATED = ("learning_rate_scheduler", "observation_preprocessor", "state_preprocessor", "value_preprocessor")
"""skrl evaluates these as Python, so that the word None in them is null."""
UNSET: Mapping[Key, Mapping[str, Any]] = {
    ("agent",): {
        "clip_predicted_values": False, "entropy_loss_scale": 0.0, "kl_threshold": 0.0, "time_limit_bootstrap": False
    },
    ("agent", "experiment"): {"directory": "", "experiment_name": "", "store_separately": False, "wandb": False},
    ("trainer",): {"close_environment_at_exit": False, "headless": False},
}  # fmt: skip
"""Meaning of null where skrl only asks whether a key is set."""
_WORD = re.compile(r"""(["'].*?["'])|\bShape\.|\b([A-Z_]+)\b""")
_OBSERVED = {"STATES": "OBSERVATIONS", "STATE_SPACE": "OBSERVATION_SPACE"}
_SHARED = {"OBSERVATIONS": "STATES", "OBSERVATION_SPACE": "STATE_SPACE"}
"""In skrl 1.x both words are the observation, or the shared state in the value network of MAPPO."""


TRANSLATED, DEFAULTS, DIFFERS, IGNORED = "translated", "1.x defaults used", "not as in skrl", "ignored"


class _Notes:
    """One line for the user about how a file was read; `overridden` is what the command line sets."""

    def __init__(self, overridden: Iterable[Key]) -> None:
        self.overridden = frozenset(map(dotted, overridden))
        self._said: dict[str, dict[str, None]] = {kind: {} for kind in (TRANSLATED, DEFAULTS, DIFFERS, IGNORED)}

    def say(self, kind: str, text: str) -> None:
        """Tell once that something was translated, differs or was ignored."""
        self._said[kind][text] = None

    def default(self, key: str, text: str) -> None:
        """Tell that a key that was missing has the default of its era, unless the command line sets it."""
        if key not in self.overridden:
            self.say(DEFAULTS, text)

    def lines(self, era: Era) -> list[str]:
        """One line, or none for a canonical file."""
        if not (era.before_2 or any(self._said[kind] for kind in (TRANSLATED, DEFAULTS, IGNORED))):
            return []
        said = [f"{kind}: {', '.join(texts)}" for kind, texts in self._said.items() if texts]
        return ["; ".join([f"read as {era.value}", *said])]


def canonical(data: Mapping[str, Any], era: Era, source: Source) -> tuple[dict[str, Any], list[str]]:
    """A configuration of an era in the canonical spelling, and a note on what was translated, if anything was.

    Unknown keys pass through, for the schema to refuse.
    """
    out, notes = plain_copy(data), _Notes(source.overridden)
    models, agent, trainer = (out.get(name) for name in ("models", "agent", "trainer"))
    for path, meanings in UNSET.items():
        block: Any = out
        for name in path:
            block = block.get(name) if isinstance(block, dict) else None
        if isinstance(block, dict):
            block.update({name: value for name, value in meanings.items() if name in block and block[name] is None})
    if era.before_2:
        for name, block in (("agent", agent), ("trainer", trainer)):
            _true(block, (name,), notes)
    if isinstance(models, dict):
        _models(models, is_class(agent, "MAPPO"), era, source, notes)
    if isinstance(agent, dict):
        _preprocessors(agent, era, source, notes)
        _rename(agent, "lambda", "gae_lambda", source, notes)
        _scheduler(agent, notes)
        _value_loss(agent, era, source, notes)
        _of_agents(agent, source, notes)
        _rewards_and_intervals(agent, era, notes)
        unnamed = era.before_2 and "class" not in agent and "agent.class" not in notes.overridden
        if unnamed and (named := trained_as_ppo(source)) is not None:
            notes.say(DIFFERS, f"PPO, as agent.class is missing (the file's name says {named})")
        if "time_limit_bootstrap" not in agent and "agent.time_limit_bootstrap" not in notes.overridden:
            notes.say(DIFFERS, "time_limit_bootstrap is missing, which is True here and was False in skrl")
    if isinstance(trainer, dict) and era is Era.ORBIT and "use_api" in trainer:
        del trainer["use_api"]
        notes.say(IGNORED, "trainer.use_api (chose a loop that trains the same)")
    if era.before_2:
        leave_out(out, era, source, functools.partial(notes.say, IGNORED))
    return out, notes.lines(era)


def canonical_key(key: Key, era: Era) -> Key:
    """The canonical name of a setting over a file of this era; keys below `models` stay as they are."""
    return canonical_override(key, False, era)[0]


def canonical_override(key: Key, value: Any, era: Era, where: str = "command line") -> tuple[Key, Any]:
    """The same with its value; `where` it is written, for errors."""
    if key == ("agent",) and isinstance(value, Mapping):
        renamed = [canonical_override(("agent", name), inner, era, where) for name, inner in value.items()]
        return key, {name: inner for (_, name), inner in renamed}
    if len(key) >= 2 and key[0] == "agent":
        if key[1] == "clip_predicted_values":
            if value is False:
                return ("agent", "value_clip"), 0.0
            raise UserError(
                f"{where}: agent.clip_predicted_values: can only be switched off here; "
                "to clip, set agent.value_clip to the bound"
            )
        privileged = str(key[1]).startswith("state_preprocessor") and not era.before_2
        name = key[1] if privileged else AGENT_RENAMES.get(str(key[1]), key[1])
        key = ("agent", name, *key[2:])
        if key == ("agent", "learning_rate_scheduler"):
            value = SCHEDULER_RENAMES.get(value, value) if isinstance(value, str) else value
    return key, value


def of_agents(data: dict[str, Any], key: Key, value: Any) -> Key:
    """The key to set in a translated configuration: that of an agent's own number is in `of_agents`.

    A number of all agents takes the place of those of each.
    """
    agent = data.get("agent") or {}
    if not _several(agent) or len(key) < 2 or key[0] != "agent" or key[1] not in marked(Agent, Mark.HYPER):
        return key
    if len(key) > 2 or isinstance(value, Mapping):
        return ("agent", "of_agents", *key[1:])
    if isinstance(blocks := agent.get("of_agents"), dict):
        blocks.pop(key[1], None)
    return key


def _several(agent: Any) -> bool:
    return is_class(agent, "IPPO") or is_class(agent, "MAPPO")


def _rename(agent: dict[str, Any], old: str, new: str, source: Source, notes: _Notes) -> None:
    if old not in agent:
        return
    if new in agent:
        raise UserError(f"{source.where(('agent', old))}: {old!r} and {new!r} are two names of one setting; keep one")
    agent[new] = agent.pop(old)
    source.written["agent", new] = ("agent", old)
    if not old.endswith("_kwargs"):
        notes.say(TRANSLATED, f"{old} → {new}")


def _preprocessors(agent: dict[str, Any], era: Era, source: Source, notes: _Notes) -> None:
    """`state_preprocessor` is that of the observations up to 1.4, and in 2.x where those have none of their own."""
    for name in EVALUATED:
        if agent.get(name) == "None":
            agent[name] = None
    own = {"observation_preprocessor", "observation_preprocessor_kwargs"} & agent.keys()
    if era.before_2 or ("state_preprocessor" in agent and not own):
        for old in ("state_preprocessor", "state_preprocessor_kwargs"):
            _rename(agent, old, AGENT_RENAMES[old], source, notes)
    for old in ("shared_state_preprocessor", "shared_state_preprocessor_kwargs"):
        if not era.before_2 or is_class(agent, "MAPPO"):
            _rename(agent, old, old.removeprefix("shared_"), source, notes)
        elif old in agent:
            del agent[old]
            notes.say(IGNORED, "agent.shared_state_preprocessor (skrl 1.x reads it for MAPPO alone)")


def _scheduler(agent: dict[str, Any], notes: _Notes) -> None:
    name = agent.get("learning_rate_scheduler")
    if isinstance(name, str) and name in SCHEDULER_RENAMES:
        agent["learning_rate_scheduler"] = SCHEDULER_RENAMES[name]
        notes.say(TRANSLATED, f"{name} → {SCHEDULER_RENAMES[name]}")
    arguments = agent.get("learning_rate_scheduler_kwargs")
    if isinstance(arguments, dict):
        for key in without_effect(arguments):
            del arguments[key]
            notes.say(IGNORED, f"agent.learning_rate_scheduler_kwargs.{key} (does not change training)")


def _value_loss(agent: dict[str, Any], era: Era, source: Source, notes: _Notes) -> None:
    """`clip_predicted_values` switches `value_clip`, and is off in 1.x where it is missing. A2C has neither."""
    given = "clip_predicted_values" in agent
    clip = agent.pop("clip_predicted_values", not era.before_2)
    if not isinstance(clip, bool):
        where = source.where(("agent", "clip_predicted_values"))
        raise UserError(f"{where}: found {clip!r}; allowed: True or False")
    if is_a2c(agent):
        if era.before_2:
            _leave_out_ppos(agent, given, notes)
        return
    if given:
        notes.say(TRANSLATED, "clip_predicted_values → value_clip")
    if era.before_2 and "value_loss_scale" not in agent:
        agent["value_loss_scale"] = 1.0
        notes.default("agent.value_loss_scale", "value_loss_scale 1.0")
    if not clip:
        agent["value_clip"] = 0.0
        if not given:
            notes.default("agent.value_clip", "no value clipping (clip_predicted_values is missing)")


def _leave_out_ppos(agent: dict[str, Any], clips_values: bool, notes: _Notes) -> None:
    """Leave out numbers that A2C of skrl 1.x does not read, as of a file of PPO whose class was changed."""
    if agent.get("learning_epochs", 1) != 1 and "agent.learning_epochs" not in notes.overridden:
        del agent["learning_epochs"]
        notes.say(IGNORED, "agent.learning_epochs (A2C of skrl 1.x learns once from each rollout)")
    own = [name for name in PPOS if name in agent and f"agent.{name}" not in notes.overridden]
    for name in own:
        del agent[name]
    if found := [*(["clip_predicted_values"] if clips_values else []), *own]:
        notes.say(IGNORED, f"agent.{', '.join(found)} (PPO's; A2C of skrl 1.x has none)")


def _of_agents(agent: dict[str, Any], source: Source, notes: _Notes) -> None:
    """Numbers of which each of several agents has its own: skrl takes a block by agent in place of one."""
    if not _several(agent):
        return
    for name in [name for name in marked(Agent, Mark.HYPER) if isinstance(agent.get(name), dict)]:
        agent["of_agents"] = {**(agent.get("of_agents") or {}), name: agent.pop(name)}
        source.written["agent", "of_agents", name] = ("agent", name)
        notes.say(TRANSLATED, f"{name} by agent → of_agents")


def _rewards_and_intervals(agent: dict[str, Any], era: Era, notes: _Notes) -> None:
    for name in ("rewards_shaper", "rewards_shaper_scale"):
        if agent.get(name, "") is None:
            del agent[name]
    if era.before_2 and "rewards_shaper" in agent:
        del agent["rewards_shaper"]
        notes.say(IGNORED, "agent.rewards_shaper (skrl 1.x overwrites it; rewards_shaper_scale scales rewards)")
    experiment = {} if agent.get("experiment") is None else agent["experiment"]
    if isinstance(experiment, dict):
        for name, steps in era.intervals.items():
            if name not in experiment:
                experiment[name] = steps
                notes.default(f"agent.experiment.{name}", f"{name} {steps}")
        if experiment.get("store_separately") is True:
            experiment["store_separately"] = False
            notes.say(IGNORED, "agent.experiment.store_separately (a checkpoint is one file)")
        agent["experiment"] = experiment


def _true(block: Any, key: Key, notes: _Notes) -> None:
    """`True,` is a text to YAML, which is true to the Python of skrl 1.x; so would be `False,`, which is refused."""
    for name, value in block.items() if isinstance(block, dict) else ():
        if value == "True,":
            block[name] = True
            notes.say(TRANSLATED, f"{dotted((*key, name))} 'True,' → True")
        _true(value, (*key, name), notes)


# ---------------------------------------------------------------------------------------------- models


def _models(models: dict[str, Any], centralised: bool, era: Era, source: Source, notes: _Notes) -> None:
    if era is Era.ORBIT and "value" in models:
        models["value"] = models.pop("value")  # its scripts shared the policy's layers, whichever is listed first
    for text in unread(models):
        notes.say(IGNORED, text)
    policy = models.get("policy")
    chosen = "models.policy.clip_actions" in notes.overridden
    if era.before_2 and isinstance(policy, dict) and policy.get("clip_actions") is True and not chosen:
        models["policy"] = {**policy, "clip_actions": "bounded"}
    for role in [role for role, model in models.items() if isinstance(model, dict)]:
        if LEGACY_MODEL & models[role].keys() or (era is Era.ORBIT and role in ("policy", "value")):
            models[role] = _network(models[role], era, ("models", role), source, notes)
            notes.say(TRANSLATED, "hiddens → network")
        words = _SHARED if centralised and role == "value" else _OBSERVED
        if era is Era.NETWORK or (era.before_2 and words is _SHARED):
            for key in ("network", "output"):
                if key in models[role]:
                    models[role][key] = _in_words(models[role][key], words, notes)


def _in_words(value: Any, words: Mapping[str, str], notes: _Notes) -> Any:
    """Other words in every text of a `network` or `output`, keys of Dict observations left alone."""
    if isinstance(value, dict):
        return {key: item if key == "name" else _in_words(item, words, notes) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_words(item, words, notes) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if match[2] not in words:
            return match[1] or match[2] or ""
        notes.say(TRANSLATED, " → ".join(next(iter(words.items()))))
        return words[match[2]]

    return _WORD.sub(replaced, value)


def _network(model: dict[str, Any], era: Era, key: Key, source: Source, notes: _Notes) -> dict[str, Any]:
    """`input_shape, hiddens, …` → `network` and `output`, as skrl 1.3 converts them."""
    for new in ("network", "output"):
        if new in model:
            old = ", ".join(sorted(LEGACY_MODEL & model.keys()))
            raise UserError(f"{source.where((*key, new))}: {new!r} cannot be combined with {old}; keep one form")
    model = dict(model)
    where = {name: source.where((*key, name)) for name in LEGACY_MODEL}
    for name, value in era.layers.items():
        if name not in model:
            model[name] = value
            if value:
                notes.default(dotted((*key, name)), f"{dotted((*key, name))} {value}")
    inputs = _shape(model.pop("input_shape", "Shape.STATES"), where["input_shape"], ("STATES", "OBSERVATIONS"))
    default_output = "Shape.ONE" if key[-1] == "value" else "Shape.ACTIONS"
    token = _shape(model.pop("output_shape", default_output), where["output_shape"], ("ACTIONS", "ONE"))
    hiddens = model.pop("hiddens")
    hiddens = [] if hiddens is None else hiddens
    if not isinstance(hiddens, list):
        raise UserError(f"{where['hiddens']}: found {hiddens!r}; allowed: a list of layer sizes such as [64, 64]")
    for index, entry in enumerate(hiddens):
        layer(entry, source.where((*key, "hiddens", index)))  # so that a wrong one is told where it is written
    given = model.pop("hidden_activation")
    if not (given is None or isinstance(given, str | list)):
        raise UserError(f"{where['hidden_activation']}: found {given!r}; allowed: an activation or a list of them")
    if isinstance(given, list) and given and all(name == given[0] for name in given):
        given = given[:1]  # skrl takes a list of one name at any length
    activations = activation_list(given, [False] * len(hiddens), where["hidden_activation"])
    activation = activation_name(model.pop("output_activation"), where["output_activation"])
    factor = model.pop("output_scale", 1.0)
    scale = number(factor.strip()) if isinstance(factor, str) else factor
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) < LARGEST_NUMBER:
        raise UserError(f"{where['output_scale']}: found {factor!r}; allowed: a number below {LARGEST_NUMBER:g}")
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


# ---------------------------------------------------------------------------------------------- ignored


def leave_out(data: dict[str, Any], era: Era, source: Source, ignored: Callable[[str], None]) -> None:
    """Take out of a translated file of skrl 1.x, in place, what that skrl ignores; skrl 2.x refuses unknown keys.

    Left for the schema to refuse is what the command line sets, what skrl hands to a function that refuses unknown
    arguments, and any unknown key beside which one is missing that skrl needs: it may be that one, misspelt. `ignored`
    takes what is left out, with the reason, for the user to be told.
    """

    younger = set(marked(Agent, Mark.LATER))

    def take_out(block: Any, key: Key, *needed: str) -> None:
        if not isinstance(block, dict) or not all(name in block for name in needed):
            return
        known = keys.below(key)
        for name in [name for name in block if name not in known]:
            path = (*key, name)
            if not any(chosen[: len(path)] == path for chosen in source.overridden):
                del block[name]
                near = "".join(f"; did you mean {one!r}?" for one in nearest(name, set(known) - younger, 1))
                ignored(f"{dotted(path)} (skrl 1.x ignores it{near})")

    take_out(data, (), "models", "agent", "trainer")
    agent, models = (data[name] if isinstance(data.get(name), dict) else {} for name in ("agent", "models"))
    take_out(agent, ("agent",))
    take_out(agent.get("experiment"), ("agent", "experiment"))
    take_out(data.get("trainer"), ("trainer",))
    # Shared layers of a Runner are of exactly two roles; Orbit's scripts take the two that they know.
    separate = models.get("separate", True) is not False
    if separate or era is Era.ORBIT:
        take_out(models, ("models",), "separate", "policy", "value")
    for role in ("policy", "value"):
        model = models[role] if isinstance(models.get(role), dict) else {}
        network = model.get("network")
        items = [item for item in network if isinstance(item, dict)] if isinstance(network, list) else []
        for index, item in enumerate(items):
            take_out(item, ("models", role, "network", index), "name", "input", "layers")
        # Up to skrl 1.2 a separate model refuses unknown arguments; later it builds another model where there is none.
        if any(item.get("layers") for item in items) and not (era is Era.ORBIT and separate):
            take_out(model, ("models", role), "output")
