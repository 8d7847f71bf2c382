"""What loading a configuration with a mistake in it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config import load_config
from runner.config.overrides import parse_override
from runner.errors import UserError

ROOT = Path(__file__).parents[3]
SKRL = (ROOT / "configs/skrl/ppo.yaml").read_text()
SKRL_2 = (ROOT / "tests/fixtures/yaml/d_docs_2_0.yaml").read_text()
CARTPOLE = """
models:
  policy:
    class: CategoricalMixin
    network:
      - name: net
        input: OBSERVATIONS
        layers: [64, 64]
        activations: tanh
    output: ACTIONS
  value:
    class: DeterministicMixin
    network: [{name: net, input: OBSERVATIONS, layers: [64, 64], activations: tanh}]
    output: ONE
trainer: {timesteps: 4096}
"""


def message_of(tmp_path: Path, text: str | bytes, *sets: str) -> str:
    """What loading `text` as `cfg.yaml` with these overrides says, the folder left out."""
    path = tmp_path / "cfg.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_config(path, [(key, values[0]) for key, values in map(parse_override, sets)])
    return str(caught.value).replace(f"{tmp_path}/", "")


def edited(*pairs: str, base: str = SKRL) -> str:
    """`base` with old, new, old, new, … replaced once each."""
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert base.count(old) >= 1, old
        base = base.replace(old, new, 1)
    return base
