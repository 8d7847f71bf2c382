"""What the schema says of its own fields: a line on each, and its marks."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from runner.config import keys
from runner.config.load import Key
from runner.config.marks import Mark, marked
from runner.config.schedules import KLAdaptiveLR
from runner.config.schema import Agent, Config
from runner.errors import UserError
from runner.training.pack import Hyper
from tests.runner.builders import make_config
from tests.runner.config.refusing import SKRL_2, message_of

SCHEDULE = "agent.learning_rate_scheduler_kwargs"


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and all below it."""
    yield model
    for field in model.model_fields.values():
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind)


def test_every_field_says_in_one_line_what_it_is() -> None:
    found = {section: section.model_fields for section in sections(Config)}
    assert len(found) > 10
    for section, fields in found.items():
        for name, field in fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert "\n" not in field.description and field.description.endswith(".")


def test_numbers_that_are_marked_are_the_hyper_numbers() -> None:
    of_agent = {*marked(Agent, Mark.HYPER), "value_learning_rate"}
    of_schedule = {f"scheduler_{name}" for name in marked(KLAdaptiveLR, Mark.HYPER)}
    assert of_agent | of_schedule == set(Hyper._fields)


def written(data: typing.Any, above: Key = ()) -> Iterator[Key]:
    """Every key of a configuration."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in pairs:
        yield (*above, name)
        yield from written(value, (*above, name))


def test_the_table_has_every_key_of_a_configuration_and_its_schedule() -> None:
    config = make_config({"agent.learning_rate_scheduler": "StepLR", SCHEDULE: {"step_size": 3}})
    spelled = {keys.spelled(key) for key in written(config.dump()) if key[-1] not in range(9)}
    table = keys.table("StepLR")
    assert spelled - {"env.id"} <= table.keys() and table[f"{SCHEDULE}.gamma"].default == "0.1"
    assert all(entry.text and entry.allowed and "\n" not in entry.text for entry in keys.every())


MEANINGS = {
    "agent.rollouts=0": "whole number from 1 to 1,000,000 (Timesteps collected between updates, of every",
    "agent.lambda=7": "found 7; allowed: number from 0 to 1 (λ of generalised advantage estimation",
    "agent.value_loss=maxi": "allowed: skrl, max. Did you mean 'max'? (Value loss: skrl's, of the",
    "agent.learning_rate=[1, -1]": "agent.learning_rate.1: found -1; allowed: number above 0 (Adam's step size",
    "agent.learning_rate=fast": "allowed: number above 0 or list of 2 (each number above 0) (Adam's step size",
    "agent.learning_rate_scheduler_kwargs.lr_factor=0": "allowed: number from 1 (Factor that the rate is div",
    "agent.learning_rate_scheduler=StepLR": "step_size: required, but not given (torch: times `gamma` after every",
    "agent.learning_rate_scheduler=Steps": "(Schedule of the learning rate: KLAdaptiveLR, linear,",
    "agent.experiment.wandb=maybe": "(Weights & Biases: curves go there as well)",
    "models.policy.network.0.layers.1=-3": ",000 (Layers in order; a number is a linear layer of so many features",
    "models.policy.output=tan(ACTIONS)": "(Expression of means or logits; ACTIONS is a linear layer",
    "trainer.timesteps=2.5": "(Length of the training in timesteps: steps of every environment, not of all together)",
    "seed=true": "must be a number, not true or false (Number that everything random follows from; null",
}


@pytest.mark.parametrize("override", MEANINGS)
def test_what_is_said_of_a_bad_value_ends_with_what_the_key_is(override: str, tmp_path: Path) -> None:
    assert MEANINGS[override] in message_of(tmp_path, SKRL_2, override)


def test_keys_are_found_by_their_names_and_by_what_they_are() -> None:
    assert [entry.key for entry in keys.search("AGENT.RATIO")] == ["agent.ratio_clip"]
    assert [entry.line for entry in keys.search("bfloat16")] == ["agent.mixed_precision: True or False; default false"]
    assert keys.search("steplr")[-1].line == f"{SCHEDULE}.gamma (MultiStepLR): number above 0; default 0.1"
    assert keys.search("gamma")[0].key == "agent.discount_factor"  # what others call so, and what has it in its name
    assert {entry.key for entry in keys.search("gamma")[1:]} >= {f"{SCHEDULE}.gamma"}
    assert [entry.key for entry in keys.search("lam")] == ["agent.gae_lambda"]  # once, though its name has it, too
    assert len(keys.search("")) == len(keys.every())
    with pytest.raises(UserError, match=r"has 'mini_batchs' in its name .* Did you mean 'mini_batches'"):
        keys.search("mini_batchs")


def test_names_of_other_libraries_are_of_keys() -> None:
    assert keys.of_others().items() >= {"n_steps": "agent.rollouts", "clip_coef": "agent.ratio_clip"}.items()
    assert set(keys.of_others().values()) <= keys.table(None).keys()
    own = {entry.name for entry in keys.every()} - {"gamma"}  # of a schedule
    assert not own & keys.of_others().keys()
