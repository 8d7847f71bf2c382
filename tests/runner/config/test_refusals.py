"""L7: a bad key or value is an error that names file, line, key, what was found, what is allowed, the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config import load_config
from runner.errors import UserError
from tests.runner.config.refusing import CARTPOLE, SKRL, SKRL_2, edited, message_of

BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES: dict[str, tuple[str | bytes, str]] = {
    "tag that calls": (
        edited("seed: 42", "seed: !!python/object/apply:os.system ['touch pwned']"),
        "cfg.yaml:3: not valid YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/"
        "apply:os.system'; tags that build objects are never executed",
    ),
    "tag that builds": (edited("seed: 42", "seed: !!python/object:os.X {}"), "tags that build objects are never"),
    "tag of one's own": (edited("seed: 42", "seed: !env HOME"), "could not determine a constructor for the tag '!env'"),
    "anchor bomb": (BOMB + SKRL, "cfg.yaml:5: anchors expand to more than 20,000 values; write them out"),
    "anchor in itself": (SKRL + "\nx: &x [*x]\n", "x.0: an anchor that contains itself"),
    "anchor in its own block": (SKRL + "\nx: &x {a: *x}\n", "x.a: an anchor that contains itself"),
    "key twice": (
        edited("  rollouts: 16", "  rollouts: 16\n  rollouts: 32"),
        "cfg.yaml:43: agent.rollouts: given twice in one block",
    ),
    "section twice": (SKRL + "\nseed: 3\n", "seed: given twice in one block"),
    "empty": ("", "cfg.yaml: empty; a configuration needs at least models, agent and trainer"),
    "comments only": ("# nothing\n", "cfg.yaml: empty"),
    "null": ("null\n", "cfg.yaml: empty"),
    "list": ("- a\n- b\n", "cfg.yaml: the top level is a list, it must be a mapping of keys to values"),
    "text": ("hello\n", "cfg.yaml: the top level is a str"),
    "two documents": (SKRL + "\n---\n" + SKRL, "not valid YAML: but found another document; a file is one document"),
    "no space": (
        edited("  rollouts: 16", "  rollouts:16"),
        "cfg.yaml:42: not valid YAML: could not find expected ':'; a colon and a space follow a key",
    ),
    "too far in": (
        edited("  learning_epochs: 8", "    learning_epochs: 8"),
        "cfg.yaml:43: not valid YAML: mapping values are not allowed here; a key has a line of its own, indented as",
    ),
    "first too far in": (
        edited("  rollouts: 16", "    rollouts: 16"),
        "cfg.yaml:42: not valid YAML: expected <block end>, but found '<block mapping start>'; keys of one block are",
    ),
    "open quote": ("seed: 3\nbackend: 'jax\n", "cfg.yaml:2: not valid YAML: found unexpected end of stream; a quote"),
    "open bracket": ("a: [1,\nb: 2", "cfg.yaml:2: not valid YAML: expected ',' or ']'"),
    "tab": ("a:\n\tb: 2", "cfg.yaml:2: not valid YAML: found character '\\t' that cannot start any token; indent"),
    "not UTF-8": (b"seed: \xff\xfe\n", "cfg.yaml: not UTF-8 text (byte 6 is 0xff)"),
    "UTF-16": ("seed: 3".encode("utf-16"), "cfg.yaml: not UTF-8 text (byte 0 is 0xff)"),
    "zero byte": (b"seed: \x00\n", "cfg.yaml: not valid YAML: unacceptable character #x0000"),
    "too large": (b"#" * 1_000_001, "cfg.yaml: larger than 1,000,000 bytes, not a configuration file"),
    "too deep": ("[" * 1000, "cfg.yaml: nested too deeply to be a configuration"),
    "key that is a block": ("? {a: 1}\n: 2\n", "cfg.yaml:1: a key must be a plain word"),
    "impossible date": (
        edited("seed: 42", "seed: 2020-13-45"),
        "cfg.yaml:3: seed: found '2020-13-45'; allowed: whole number",
    ),
    "no models": ("seed: 3", "cfg.yaml: models: required, but not given"),
    "empty models": ("models: {}", "cfg.yaml:1: models.policy: required, but not given\n"),
    "unknown section": (SKRL_2 + "\nagnet: {}\n", "agnet: unknown key. Did you mean 'agent'?"),
    "tag that does not fit": (
        edited("seed: 42", "seed: !!bool maybe"),
        "cfg.yaml:3: not valid YAML: 'maybe' is no bool",
    ),
    "tag without a value": (edited("seed: 42", "seed: !!int ''"), "cfg.yaml:3: not valid YAML: '' is no int"),
    "set": (edited("hiddens: [32, 32]", "hiddens: !!set {32}"), "the tag 'tag:yaml.org,2002:set'; tags that build"),
    "endless hexadecimal": (
        edited("42", "0x" + "f" * 5000),
        "cfg.yaml:3: not valid YAML: a number of more than 100 char",
    ),
    "endless base 60": (
        edited("42", "1" + ":1" * 5000),
        f"cfg.yaml:3: seed: found '1{':1' * 99}…; allowed: whole number",
    ),
    "endless digits that are no number": (
        edited("3.e-4", f"'{'1' * 100_000}x'"),
        "cfg.yaml:47: agent.learning_rate: found",
    ),
    "texts that anchors multiply": (
        f"a: &a {'x' * 200_000}\nb: [{'*a,' * 20}]\n" + SKRL,
        "cfg.yaml:2: anchors expand to more than 20,000 values",
    ),
    "key that looks like a mark of pydantic": (
        SKRL_2 + "\nint: 1\n",
        "cfg.yaml:62: int: unknown key. Allowed here: agent,",
    ),
    "key with brackets": (SKRL_2 + "\n'a[0]': 1\n", "cfg.yaml:62: a[0]: unknown key. Allowed here: agent,"),
    "number as inner key": (
        edited("  rollouts: 32", "  5: 16", base=SKRL_2),
        "cfg.yaml:32: agent.5: unknown key. Allowed here:",
    ),
    "word that YAML calls true as key": (
        edited("  rollouts:", "  on:", base=SKRL_2),
        "cfg.yaml:32: agent.on: unknown key.",
    ),
    "key twice in two ways": (edited("  rollouts: 16", "  5: 1\n  '5': 2"), "agent.5: given twice in one block"),
    "old key misspelt": (
        edited("  value_clip: 0.2", "  clip_predicted_value: True", base=SKRL_2),
        "Did you mean 'clip_predicted_val",
    ),
    "wrong value of an old key": (
        edited("  lambda: 0.95", "  lambda: 5"),
        "cfg.yaml:46: agent.lambda: found 5; allowed: number from 0 to 1",
    ),
    "wrong value of an old block": (
        edited("  state_preprocessor_kwargs: null", "  state_preprocessor_kwargs:\n    epsilon: 0"),
        "agent.state_preprocessor_kwargs.epsilon: found 0; allowed: number above 0",
    ),
    "hiddens that are none": (
        edited("hiddens: [32, 32]", "hiddens: 0"),
        "cfg.yaml:17: models.policy.hiddens: found 0; ",
    ),
    "hidden of a wrong kind": (
        edited("hiddens: [32, 32]", "hiddens: [32, x]"),
        "cfg.yaml:17: models.policy.hiddens.1: found 'x'; allowed: a number of units",
    ),
    "activations that are none": (
        edited('["elu", "elu"]', "5"),
        "cfg.yaml:18: models.policy.hidden_activation: found 5; allowed: an activation or a list of them",
    ),
    "activations in a list too many": (edited('["elu", "elu"]', "[[elu], [elu]]"), "unknown activation ['elu']"),
    "scale without end": (
        edited("output_scale: 1.0", "output_scale: 1" + "0" * 90),
        "cfg.yaml:21: models.policy.output_scale: found 1",
    ),
    "input of nothing": (
        edited("input: OBSERVATIONS", "input: '1'", base=CARTPOLE),
        "cfg.yaml:7: models.policy.network.0.input: '1' depends on nothing",
    ),
    "layer at its line": (
        edited("[64, 64]", "\n          - 64\n          - conv: 3", base=CARTPOLE),
        "cfg.yaml:10: models.policy.network.0.layers.1: unknown layer 'conv'; allowed: linear, conv2d, flatten, lstm,",
    ),
    "schedule's key in any case": (
        edited('"KLAdaptiveLR"', "steplr").replace("kl_threshold: 0.008", "step_sise: 3"),
        "agent.learning_rate_scheduler_kwargs.step_sise: unknown key. Did you mean 'step_size'?",
    ),
    "number as key": (SKRL_2 + "\n5: 3\n", "cfg.yaml:62: 5: unknown key. Allowed here: agent, backend, compile, env"),
    "unknown agent key": (
        edited("  rollouts:", "  rolouts:", base=SKRL_2),
        "cfg.yaml:32: agent.rolouts: unknown key. Did you mean",
    ),
    "unknown experiment key": (
        edited(" write_interval:", " writ_interval:", base=SKRL_2),
        "agent.experiment.writ_interval: unknown key. Did you mean 'write_interval'",
    ),
    "unknown model key": (
        edited("    clip_log_std:", "    clip_logstd:", base=SKRL_2),
        "models.policy.clip_logstd: unknown key. Did",
    ),
    "unknown container key": (
        edited("        layers:", "        layer:", base=CARTPOLE),
        "models.policy.network.0.layer: unknown key. Did you mean 'layers'?",
    ),
    "lambda twice over": (
        edited("  lambda: 0.95", "  lambda: 0.95\n  gae_lambda: 0.9"),
        "cfg.yaml:46: agent.lambda: 'lambda' and 'gae_lambda' are two names of one setting; keep one",
    ),
    "scaler twice over": (
        edited("  random_timesteps: 0", "  observation_preprocessor: null"),
        "'state_preprocessor' and 'observation_preprocessor' are two names of one setting",
    ),
    "network beside hiddens": (
        edited("    hiddens: [32, 32]", "    hiddens: [32, 32]\n    network: []"),
        "models.policy.network: 'network' cannot be combined with hidden_activation, hiddens, input_shape",
    ),
    "output beside hiddens": (
        edited("    hiddens: [32, 32]", "    hiddens: [32, 32]\n    output: ONE"),
        "models.policy.output: 'output' cannot be combined with",
    ),
    "rate is not a number": (
        edited("learning_rate: 3.e-4", "learning_rate: .nan"),
        "cfg.yaml:47: agent.learning_rate: found nan; allowed: finite number",
    ),
    "clip flag is a number": (
        edited("clip_predicted_values: True", "clip_predicted_values: 1"),
        "agent.clip_predicted_values: found 1; allowed: True or False",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_with_their_reason(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = FILES[name]
    assert message in message_of(tmp_path, text)
    assert [p.name for p in tmp_path.iterdir()] == ["cfg.yaml"], "something was executed"


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nope\.yaml: no such configuration file"):
        load_config(tmp_path / "nope.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


OVERRIDES: dict[str, str] = {
    # unknown keys at every depth
    "timestep=5": "timestep: unknown key. Did you mean 'trainer.timesteps'? Allowed here: agent, backend, compile",
    # as other libraries call it
    "agent.gamma=.9": "agent.gamma: unknown key. Here that is 'agent.discount_factor' (Discount: the worth of a reward",
    "agent.batch_size=64": "unknown key. Here that is 'agent.mini_batches' (Parts that a rollout is cut into in every",
    "total_timesteps=10": "total_timesteps: unknown key. Here that is 'trainer.timesteps' (Length of the training in",
    "agnet.x=1": "command line: agnet: unknown key. Did you mean 'agent'?",
    "a.b.c=3": "command line: a: unknown key.",
    "agent.learning_rat=1": "command line: agent.learning_rat: unknown key. Did you mean 'learning_rate'",
    "trainer.timestep=5": "command line: trainer.timestep: unknown key. Did you mean 'timesteps'?",
    "memory.size=4": "command line: memory.size: unknown key. Allowed here: class, export",
    "models.polcy.class=x": "command line: models.polcy: unknown key. Did you mean 'policy'?",
    "models.policy.hiden=3": "command line: models.policy.hiden: unknown key. Did you mean 'hiddens'?",
    "agent.learning_rate_scheduler_kwargs.kl_treshold=1": "kl_treshold: unknown key. Did you mean 'kl_threshold'?",
    "agent.state_preprocessor_kwargs.eps=1": "agent.observation_preprocessor_kwargs.eps: unknown key. Did you mean",
    "agent.learning_rate.x=3": "command line: agent.learning_rate.x: agent.learning_rate is a single value without",
    "models.policy.hiddens.5=3": "command line: models.policy.hiddens.5: the list has 2 entries, 0 to 1",
    "agent.changes=[{at: 5, ratio_clipp: 1}]": "agent.changes.0: ratio_clipp does not change. Did you mean 'ratio",
    "agent.changes=[{at: 5, rollouts: 32}]": "changes.0: rollouts does not change. Allowed: discount_factor,",
    "agent.changes=[{at: 5, gae_lambda: 2.0}]": "agent.changes.0.gae_lambda: found 2.0; allowed: number from 0 to 1 (λ",
    "agent.changes=[{at: 5, learning_rate: [1]}]": "changes.0.learning_rate: found [1]; allowed: number above 0",
    "agent.changes=[{at: 5, alpha: 1}, {at: 5, alpha: 2}]": "agent.changes.1.at 5: comes after 5; allowed: in order",
    "agent.changes=[{at: 5}]": "agent.changes.0: nothing changes; allowed: numbers such as learning_rate",
    "agent.changes=[{at: 100_000_000, alpha: 1}]": "agent.changes.0.at 100000000: the last update begins at timestep",
    "env.wrappers=x": "command line: env.wrappers: found 'x'; allowed: a list such as [my_package:Clip]",
    "env.wrappers=[3]": "command line: env.wrappers.0: found 3; allowed: module:Name or {module:Name: {argument:",
    "env.wrappers=[a:B, TimeLimit]": "env.wrappers.1: found 'TimeLimit'; allowed: a module and a name in it, such as",
    # types
    "agent=5": "command line: agent: found 5; allowed: block of keys",
    "models.policy=null": "command line: models.policy: found None; allowed: block of keys",
    "agent.changes=[[]]": "agent.changes.0: found []; allowed: block of keys",
    "agent.changes={at: 5}": "agent.changes: found {'at': 5}; allowed: list (each block of keys)",
    "models.separate='False'": "models.separate: found 'False'; allowed: True or False (",
    "trainer.timesteps=1.5": "command line: trainer.timesteps: found 1.5; allowed: whole number",
    "trainer.timesteps=abc": "command line: trainer.timesteps: found 'abc'; allowed: whole number",
    "trainer.timesteps=true": "command line: trainer.timesteps: must be a number, not true or false",
    "agent.learning_rate=true": "command line: agent.learning_rate: must be a number, not true or false",
    "agent.learning_rate=[1,2,3]": "found [1, 2, 3]; allowed: number above 0 or list of 2 (each number above 0)",
    "agent.learning_rate=1e-3x": "command line: agent.learning_rate: found '1e-3x'; allowed: number",
    "agent.rewards_shaper_scale=null": "command line: agent.rewards_shaper_scale: found None; allowed: number",
    "agent.time_limit_bootstrap=1": "command line: agent.time_limit_bootstrap: found 1; allowed: True or False",
    "models.separate=1": "command line: models.separate: found 1; allowed: True or False",
    "env.id=5": "command line: env.id: found 5; allowed: text",
    "seed=abc": "command line: seed: found 'abc'; allowed: whole number",
    "compile=maybe": "command line: compile: found 'maybe'; allowed: auto or True or False",
    "agent.experiment.write_interval=always": "write_interval: found 'always'; allowed: whole number or auto",
    "agent.experiment.checkpoint_interval=1.5": "checkpoint_interval: found 1.5; allowed: whole number or auto",
    "agent.clip_predicted_values=true": "can only be switched off here; to clip, set agent.value_clip to the bound",
    # ranges
    "agent.learning_rate=.nan": "command line: agent.learning_rate: found nan; allowed: finite number",
    "agent.learning_rate=.inf": "command line: agent.learning_rate: found inf; allowed: finite number",
    "agent.learning_rate=-1": "command line: agent.learning_rate: found -1; allowed: number above 0 or list of 2",
    "agent.rollouts=0": "command line: agent.rollouts: found 0; allowed: whole number from 1 to 1,000,000",
    "agent.mini_batches=0": "command line: agent.mini_batches: found 0; allowed: whole number from 1",
    "agent.discount_factor=1.5": "command line: agent.discount_factor: found 1.5; allowed: number from 0 to 1",
    "agent.lambda=-0.1": "command line: agent.gae_lambda: found -0.1; allowed: number from 0 to 1",
    "agent.kl_threshold=-1": "command line: agent.kl_threshold: found -1; allowed: number from 0",
    "agent.ratio_clip=0": "command line: agent.ratio_clip: found 0; allowed: number above 0",
    "agent.random_timesteps=1590": "1600 leave no rollout to learn from after agent.random_timesteps 1590 and",
    "agent.learning_starts=-1": "command line: agent.learning_starts: found -1; allowed: whole number from 0",
    "env.num_envs=0": "command line: env.num_envs: found 0; allowed: whole number from 1 to 1,000,000",
    "seed=-1": "command line: seed: found -1; allowed: whole number from 0 below 9,223",
    "models.policy.initial_log_std=.inf": "models.policy.initial_log_std: found inf; allowed: finite number",
    "models.policy.min_log_std=5": "models.policy.min_log_std 5.0 must be below max_log_std 2.0",
    "agent.learning_rate_scheduler_kwargs.min_lr=1": "min_lr 1.0 must not be above max_lr 0.01",
    "memory.memory_size=64": "memory.memory_size 64 must be -1 or agent.rollouts (16): PPO learns from exactly one",
    "agent.rollouts=1601": "cfg.yaml:76: trainer.timesteps 1600 is less than one rollout (agent.rollouts 1601)",
    # names
    "agent.class=DQN": "command line: agent.class: class DQN of skrl is not supported; allowed: PPO, RPO, A2C",
    "agent.class=A2C": "learning_epochs 8: A2C learns once from each rollout; allowed: 1",
    "models.policy.class=Gausian": "found 'Gausian'; allowed: GaussianMixin, MultivariateGaussianMixin, Cat",
    "models.policy.reduction=max": "found 'max'; allowed: sum, mean, prod, none",
    "models.policy.initial_log_std=[]": "models.policy.initial_log_std: found []; allowed: ",
    "models.policy.action_mask=yes please": "action_mask: found 'yes please'; allowed: auto or True or False",
    "models.value.class=GaussianMixin": "found 'GaussianMixin'; allowed: DeterministicMixin (Values are computed",
    "agent.learning_rate_scheduler=StepLR": "learning_rate_scheduler_kwargs.step_size: required, but not given",
    "agent.learning_rate_scheduler=LambdaLR": "found 'LambdaLR'; allowed: KLAdaptiveLR, linear, cosine, expon",
    "agent.learning_rate_scheduler=KLAdaptive": "cosine_decay_schedule, or null. Did you mean 'KLAdaptiveLR'?",
    "agent.value_preprocessor=Scaler": "value_preprocessor: found 'Scaler'; allowed: RunningStandardScaler or null",
    "agent.advantage_normalization=batch": "allowed: rollout, minibatch, none. Did you mean 'minibatch'?",
    "trainer.class=ParallelTrainer": "trainer.class: found 'ParallelTrainer'; allowed: SequentialTrainer",
    "backend=tensorflow": "backend: found 'tensorflow'; allowed: auto, torch, jax (Framework; auto: JAX",
    "agent.mixed_precision=1": "command line: agent.mixed_precision: found 1; allowed: True or False",
    # the 1.x network
    "models.policy.hidden_activation=eluu": "command line: models.policy.hidden_activation: unknown activation 'eluu'",
    "models.policy.hidden_activation=[elu,tanh,elu]": "3 activations for 2 layers; give one, or one per layer",
    "models.policy.output_activation=foo": "command line: models.policy.output_activation: unknown activation 'foo'",
    "models.policy.output_scale=true": "command line: models.policy.output_scale: found True; allowed: a number",
    "models.policy.output_scale=.nan": "command line: models.policy.output_scale: found nan; allowed: a number",
    "models.policy.input_shape=Shape.ACTIONS": "found 'Shape.ACTIONS'; allowed: Shape.STATES, Shape.OBSERVATIONS",
    "models.policy.output_shape=Shape.ONE": "models.policy.output 'tanh(ONE)' must be built on ACTIONS",
    "models.policy.hiddens=32": "models.policy.hiddens: found 32; allowed: a list of layer sizes such as [64, 64]",
    "agent.learning_rate_scheduler_kwargs={T_max: 5}": "T_max: unknown key.",
    "agent={lamda: 0.9}": "agent.lamda: unknown key. Did you mean 'lambda'",
    "models.policy.hiddens=[0,8]": "found 0; allowed: a whole number from 1 to 1,000,000",
    "models.policy.hiddens=[true,8]": "models.policy.hiddens.0: found True; allowed: a number of units",
    "agent.share_parameters=[[0]]": "\ncommand line: agent.share_parameters.0.0: found 0; allowed: list (each text)",
    "search.trials=3": "its parts are --search, --trials, --population, --confirm and --search-seed",
    "sweep.seed=3": "command line: sweep: unknown key. sweep is a section of files; on the command line its parts are",
    # command line syntax
    "novalue": "command line: --set 'novalue': write key=value, such as agent.learning_rate=3e-4",
    "=3": "command line: --set '=3': write key=value",
    "a..b=3": "command line: --set 'a..b=3': write key=value",
    "agent.x=[1,": "command line: --set 'agent.x=[1,': not valid YAML: expected the node content",
    "seed=!!python/object/apply:os.getcwd []": "tags that build objects are never executed",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_bad_overrides_are_refused_with_their_reason(override: str, tmp_path: Path) -> None:
    assert OVERRIDES[override] in message_of(tmp_path, SKRL, override)


def test_more_minibatches_than_rows_are_refused(tmp_path: Path) -> None:
    message = message_of(tmp_path, SKRL, "agent.mini_batches=1025", "env.num_envs=64")
    assert "agent.mini_batches 1025 is more than the 1024 rows of a rollout" in message
    assert "(agent.rollouts 16 x num_envs 64); allowed: 1 to 1024" in message


def test_every_mistake_is_told_at_once_but_not_more_than_a_screenful(tmp_path: Path) -> None:
    message = message_of(tmp_path, SKRL, "agent.rollouts=0", "trainer.timesteps=x", "agent.foo=1")
    assert [part in message for part in ("agent.rollouts", "trainer.timesteps", "agent.foo")] == [True] * 3
    lines = message_of(tmp_path, "".join(f"key{i}: {i}\n" for i in range(50))).splitlines()
    assert len(lines) == 9 and lines[-1] == "… and 43 more"
