"""The keys of a configuration as the schema declares them: kinds, bounds, defaults, and what each is in one line.

Errors, `launch keys` and docs/yaml.md show these.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from runner.config.load import Key, dump
from runner.config.schedules import SCHEDULES, arguments_of
from runner.config.schema import Config
from runner.errors import UserError, did_you_mean, shown

SECTION = "block of keys"
ANYTHING = "anything"
REQUIRED = "required"
ACCEPTED = "Accepted as in skrl, without effect"
"""Beginning of the lines on keys that do nothing here."""
SCHEDULE = "agent.learning_rate_scheduler_kwargs"
_OTHERS = {
    "agent.discount_factor": "gamma",
    "agent.gae_lambda": "lam tau",
    "agent.learning_rate": "lr",
    "agent.rollouts": "n_steps num_steps num_steps_per_env horizon_length",
    "agent.learning_epochs": "n_epochs num_epochs update_epochs mini_epochs num_learning_epochs",
    "agent.mini_batches": "num_minibatches num_mini_batches batch_size minibatch_size",
    "agent.ratio_clip": "clip_range clip_coef clip_param e_clip",
    "agent.value_clip": "clip_range_vf clip_vloss clip_value use_clipped_value_loss",
    "agent.entropy_loss_scale": "ent_coef entropy_coef",
    "agent.value_loss_scale": "vf_coef critic_coef value_loss_coef",
    "agent.grad_norm_clip": "max_grad_norm",
    "agent.kl_threshold": "target_kl",
    "agent.advantage_normalization": "norm_adv normalize_advantage",
    "agent.observation_preprocessor": "norm_obs normalize_input",
    "agent.value_preprocessor": "normalize_value",
    "models.initialization": "ortho_init",
    "models.policy.initial_log_std": "log_std_init",
    "models.policy.network[].activations": "activation_fn",
    "models.policy.network[].layers": "net_arch",
    "env.id": "env_id",
    "env.num_envs": "n_envs num_actors",
    "trainer.timesteps": "total_timesteps n_timesteps",
}
"""Key → what CleanRL, rl_games, RSL-RL and Stable-Baselines3 call it."""
_REFERENCE = "#/$defs/"
_KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "True or False",
    "string": "text",
    "object": SECTION,
    "null": "null",
}
_BOUNDS = (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below"))


@dataclass(frozen=True)
class Entry:
    """One key.

    Attributes:
        key: dotted, with `[]` for every entry of a list.
        default: as YAML; empty for lists and blocks, REQUIRED where there is none.
        allowed: kinds of values and their bounds.
        text: what it is.
        each: the same as `allowed` for every entry of a list.
        section: it has keys of its own.
        of: the schedule that it is an argument of.
    """

    key: str
    default: str
    allowed: str
    text: str
    each: str = ""
    section: bool = False
    of: str = ""

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def line(self) -> str:
        """The key, its values and default."""
        of = f" ({self.of})" if self.of else ""
        default = {"": "", REQUIRED: f"; {REQUIRED}"}.get(self.default, f"; default {self.default}")
        return f"{self.key}{of}: {self.allowed}{default}"


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every key of the canonical form, section by section, without the arguments of schedules."""
    return tuple(entries_of(Config))


def entries_of(section: type[BaseModel], above: str = "") -> Iterator[Entry]:
    """Every key of a section and of those in it; `above` is the key that they come below, with a dot at its end."""
    schema = section.model_json_schema(by_alias=True)
    return _entries(schema, schema["$defs"], above)


@functools.cache
def arguments(schedule: str | None) -> tuple[Entry, ...]:
    """The arguments of a schedule; its own line says what those are that have none."""
    kind = arguments_of(schedule)
    found = _entries(kind.model_json_schema(), {}, f"{SCHEDULE}.", (kind.__doc__ or "").strip())
    return tuple(replace(entry, of=str(schedule)) for entry in found)


@functools.cache
def every() -> tuple[Entry, ...]:
    """Every key, and every argument of every schedule."""
    schedules = {kind: name for name, kind in SCHEDULES.items()}.values()  # some have two names
    return (*entries(), *(entry for schedule in schedules for entry in arguments(schedule)))


def search(text: str, more: Iterable[Entry] = ()) -> list[Entry]:
    """Keys, those of a configuration and `more`, that have this in their names or in what they are, in any case.

    The first is the one that others call so.
    """
    known, folded = [*every(), *more], text.casefold()
    meant = [entry for entry in known if entry.key == of_others().get(folded)]
    named = (entry for entry in known if folded in f"{entry.key}\n{entry.of}\n{entry.text}".casefold())
    found = list(dict.fromkeys([*meant, *named]))
    if not found:
        near = did_you_mean(text, {name for entry in known for name in (entry.name, entry.key)})
        raise UserError(f"no key of a configuration has {shown(text)} in its name or in what it is.{near}")
    return found


@functools.cache
def of_others() -> dict[str, str]:
    """Name of a number in another library → the key that it has here."""
    return {name: key for key, names in _OTHERS.items() for name in names.split()}


@functools.cache
def table(schedule: str | None) -> dict[str, Entry]:
    """Every key of a configuration with this learning_rate_scheduler."""
    return {entry.key: entry for entry in (*entries(), *arguments(schedule))}


@functools.cache
def places() -> dict[str, list[str]]:
    """Name of a key → where it may stand, those of skrl aside that may be anything."""
    found: dict[str, list[str]] = {}
    for entry in every():
        if entry.allowed != ANYTHING:
            paths, path = found.setdefault(entry.name, []), entry.key.replace("[]", ".0")
            paths += [path] * (path not in paths)
    return found


def find(key: Key, schedule: str | None) -> Entry | None:
    """The entry on a key, or on the list that it is in; a change has those of the agent section."""
    while key and isinstance(key[-1], int):
        key = key[:-1]
    found = table(schedule).get(spelled(key))
    return find(("agent", *key[3:]), schedule) if found is None and key[:2] == ("agent", "changes") else found


def below(section: Key, schedule: str | None = None) -> list[str]:
    """Names of the keys of a section."""
    above = spelled(section)
    return [entry.name for name, entry in table(schedule).items() if name.rpartition(".")[0] == above]


def spelled(key: Key) -> str:
    """A key as tables have it: `('network', 0, 'name')` → `network[].name`."""
    return "".join("[]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def _entries(section: Mapping[str, Any], sections: Mapping[str, Any], above: str, text: str = "") -> Iterator[Entry]:
    below = []
    for name, field in section["properties"].items():
        inner, of_each = (field["items"], "[]") if "$ref" in field.get("items", {}) else (field, "")
        is_section = "$ref" in inner
        if is_section:
            below.append((sections[inner["$ref"].removeprefix(_REFERENCE)], f"{above}{name}{of_each}."))
        allowed = SECTION if is_section or above + name == SCHEDULE else _allowed(field)
        each = next((_allowed(way["items"]) for way in _ways(field) if way.get("type") == "array"), "")
        if of_each:
            allowed, each = f"list (each {SECTION})", SECTION
        default = REQUIRED if name in section.get("required", ()) else ""
        if "default" in field and not is_section:
            default = dump({"x": field["default"]})[3:].strip()
        yield Entry(above + name, default, allowed, field.get("description", text), each, is_section)
    for inner, key in below:
        yield from _entries(inner, sections, key)


def _ways(field: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [way for choice in field["anyOf"] for way in _ways(choice)] if "anyOf" in field else [field]


def _allowed(field: Mapping[str, Any]) -> str:
    """The ways to write a value."""
    return " or ".join(dict.fromkeys(map(_kind, _ways(field))))


def _kind(field: Mapping[str, Any]) -> str:
    """One way to write a value."""
    if "const" in field or "enum" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    if field.get("type") != "array":
        bounds = (f"{word} {field[bound]:,}" for bound, word in _BOUNDS if bound in field)
        return " ".join([_KINDS.get(field.get("type", ""), ANYTHING), *bounds])
    least, most, each = field.get("minItems", 0), field.get("maxItems"), _allowed(field["items"])
    count = str(least) if most == least else f"{least} or more" if most is None else f"{least} to {most:,}"
    bounded = f" of {count}" if least else ""
    return f"list{bounded}" if each == ANYTHING else f"list{bounded} (each {each})"
