"""The skrl that a configuration was written for, told by its marks, and its defaults for missing keys.

Read from the published wheels of skrl 1.0 to 2.1.1 and from the scripts of Orbit and Isaac Lab that used skrl without a
Runner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

LEGACY_MODEL = {
    "input_shape",
    "hiddens",
    "hidden_activation",
    "output_shape",
    "output_activation",
    "output_scale",
}
MISSPELT_SCHEDULER = "KLAdaptiveRL"
LEGACY_AGENT = {
    "lambda",
    "clip_predicted_values",
    "state_preprocessor",
    "state_preprocessor_kwargs",
    "shared_state_preprocessor",
    "shared_state_preprocessor_kwargs",
}
"""Marks only where there is none of `_AGENT_2X`, since skrl 2.x reads these names too."""
_AGENT_2X = {"gae_lambda", "observation_preprocessor", "observation_preprocessor_kwargs"}
_TOKEN_1X = re.compile(r"""["'].*?["']|(Shape\.\w+|\b(?:STATES|OBSERVATIONS)_ACTIONS\b)""")


class Era(Enum):
    """Four forms of the same configuration; the value is what the user is told."""

    ORBIT = "skrl 1.x (1.2 or older, as of Orbit and early Isaac Lab)"
    LAYERS = "skrl 1.x (1.3 or 1.4, layers as `hiddens`)"
    NETWORK = "skrl 1.x (1.3 or 1.4, layers as `network`)"
    CANONICAL = "skrl 2.x"

    @property
    def before_2(self) -> bool:
        """Value loss scale 1.0, no value clipping unless `clip_predicted_values`, STATES are the observations."""
        return self is not Era.CANONICAL

    @property
    def layers(self) -> dict[str, Any]:
        """Defaults of a model of `hiddens`."""
        if self is Era.ORBIT:
            return {"hiddens": [256, 256], "hidden_activation": "relu", "output_activation": "tanh"}
        return {"hiddens": [], "hidden_activation": None, "output_activation": ""}

    @property
    def intervals(self) -> dict[str, int]:
        """Keys of `agent.experiment` whose default was not `auto`."""
        return {"write_interval": 250, "checkpoint_interval": 1000} if self is Era.ORBIT else {}


def era_of(data: Mapping[str, Any]) -> Era:
    """The era of a configuration; without any mark it is the canonical one.

    Names of 2.x outweigh those of 1.x, as skrl 2.x reads both; a model of `hiddens` outweighs everything, as 2.x does
    not read it.
    """
    agent = _block(data.get("agent"))
    models = [model for model in _block(data.get("models")).values() if isinstance(model, Mapping)]
    as_layers = any(LEGACY_MODEL & model.keys() for model in models)
    new = bool(_AGENT_2X & agent.keys()) or any("clip_mean_actions" in model for model in models)
    old = bool(LEGACY_AGENT & agent.keys()) or agent.get("learning_rate_scheduler") == MISSPELT_SCHEDULER
    if not as_layers and (new or not (old or any(_has_token_1x(model) for model in models))):
        return Era.CANONICAL
    sections = [agent, _block(data.get("trainer")), *models]
    with_runner = "memory" in data or any("class" in section for section in sections)
    if not with_runner and not any({"network", "output"} & model.keys() for model in models):
        return Era.ORBIT
    return Era.LAYERS if as_layers else Era.NETWORK


def _block(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _has_token_1x(model: Mapping[str, Any]) -> bool:
    texts = _texts([model.get("network"), model.get("output")])
    return any(match[1] for text in texts for match in _TOKEN_1X.finditer(text))


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested lists and blocks."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)
