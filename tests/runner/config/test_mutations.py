"""L7 by property: whatever a hand, an editor or an attacker does to a configuration, it is refused by name or means
what it says. The YAMLs of every skrl era and our own are mutated; nothing may crash, hang or change a network silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from runner.config import load_config
from runner.config.load import Key, dotted, plain_copy
from runner.config.network.expressions import activation_name
from runner.config.skrl.eras import LEGACY_MODEL, era_of
from runner.errors import UserError
from tests.runner.config.mutants import (
    FILES,
    HOSTILE,
    ODD_KEYS,
    VALUES,
    WORDS,
    Original,
    at,
    built,
    changed,
    entries,
    is_expression,
    misspelt,
    network_of,
    original,
    outcome,
    owned,
    renamed,
)

LAYERS = {"network", "output", *LEGACY_MODEL}
"""Keys of a model that make its plan."""
SHAPING = ("observation_preprocessor", "state_preprocessor", "shared_state_preprocessor", "mixed_precision")
"""Beginnings of keys outside `models` that are part of a Network."""
REPEATABLE = {
    "derandomize": True,
    "database": None,
    "deadline": None,  # a hang is caught by the test's time limit
    "suppress_health_check": list(HealthCheck),
}


FILE = st.sampled_from(FILES).map(original)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_fits_an_environment_before_it_is_mutated(path: Path) -> None:
    assert original(path).network.size > 0


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutations") / "mutated.yaml"


def refused(file: Path, was: Original, data: dict[str, Any], path: Key) -> str:
    """The line that refuses `data` and names `path`; what only an environment can know is refused there."""
    config, message = outcome(file, yaml.safe_dump(data, sort_keys=False))
    if config is None:
        told = path[:-1] if ACTIVATION_KEYS & set(path[-2:-1]) else path  # a list of activations is told as one
        (line, *_) = [line for line in message.splitlines() if re.search(f": {re.escape(dotted(told))}[:.]", line)]
        return line
    with pytest.raises(UserError) as caught:
        network_of(config, was.environment)
    return str(caught.value)


def ignored(file: Path, data: dict[str, Any], path: Key) -> bool:
    """Whether this is a file of skrl 1.x in which the key is left out, and the user is told."""
    config, _ = outcome(file, yaml.safe_dump(data, sort_keys=False))
    if config is None or not era_of(data).before_2:
        return False
    (note,) = load_config(file)[1]
    return f"{dotted(path)} (skrl 1.x ignores it" in note.partition("; ignored: ")[2]


def counts(data: dict[str, Any], role: Any) -> bool:
    """Whether a role's own layers are used: with `separate: False` those of the role that is listed first are."""
    first = next(name for name in data["models"] if name in ("policy", "value"))
    return data["models"].get("separate", True) is not False or role == first


# ---------------------------------------------------------------------------------------------- keys


@settings(max_examples=120, **REPEATABLE)
@given(was=FILE, draw=st.data())
def test_a_misspelt_key_at_any_depth_is_refused_with_its_path_and_the_nearest_name(
    was: Original, draw: st.DataObject, file: Path
) -> None:
    keys = [path for path, _ in entries(was.data) if isinstance(path[-1], str) and owned(path)]
    path = draw.draw(st.sampled_from(keys))
    name = draw.draw(misspelt(str(path[-1])))
    note(f"{was.name}: {dotted(path)} → {name}")
    data = renamed(was.data, path, name)
    if ignored(file, data, (*path[:-1], name)):
        return
    told = path[:-1] if path[-3:-2] == ("layers",) else (*path[:-1], name)  # a layer is told by its place
    message = refused(file, was, data, told)
    assert name in message and "unknown" in message and "llowed" in message
    assert "Did you mean" in message or len(name) < 5 or path[-1] == "use_api"  # which means nothing any more


@settings(max_examples=60, **REPEATABLE)
@given(was=FILE, draw=st.data(), value=VALUES)
def test_an_unknown_key_in_any_block_is_refused_with_its_path(
    was: Original, draw: st.DataObject, value: Any, file: Path
) -> None:
    blocks: list[Key] = [(), *(path for path, value in entries(was.data) if isinstance(value, dict))]
    path = draw.draw(st.sampled_from([path for path in blocks if owned((*path, "x")) and "layers" not in path]))
    name = draw.draw(st.one_of(WORDS.map("x_".__add__), st.sampled_from(ODD_KEYS)))
    note(f"{was.name}: {dotted((*path, name))}")
    data = changed(was.data, (*path, name), value)
    if ignored(file, data, (*path, name)):
        return
    config, message = outcome(file, yaml.safe_dump(data, sort_keys=False))
    assert config is None
    assert f": {dotted((*path, name))}: " in message and "unknown key" in message and "Allowed here" in message


WORD = re.compile(r"[A-Za-z_]\w*")
NAMES = {"class", "learning_rate_scheduler", "state_preprocessor", "observation_preprocessor", "value_preprocessor"}
ACTIVATION_KEYS = {"activations", "hidden_activation", "output_activation"}


def vocabulary(data: dict[str, Any]) -> Iterator[tuple[Key, str, tuple[int, int]]]:
    """Every word in a value that must be one of few: path, value, where in the value the word is."""
    for path, value in entries(data):
        if not isinstance(value, str) or not value or value == "None":
            continue
        if is_expression(path):
            quoted = [match.span() for match in re.finditer(r"\"[^\"]*\"", value)]
            for match in WORD.finditer(value):
                if not any(a <= match.start() < b for a, b in quoted):
                    yield path, value, match.span()
        elif path[-1] in NAMES or path[-2:-1] == ("layers",) or ACTIVATION_KEYS & set(path[-2:]):
            yield path, value, (0, len(value))
        elif path[-1] in ("input_shape", "output_shape"):
            yield path, value, (len("Shape."), len(value))


@settings(max_examples=120, **REPEATABLE)
@given(was=FILE.filter(lambda was: any(vocabulary(was.data))), draw=st.data())
def test_a_misspelt_class_activation_token_or_layer_is_refused_and_never_read_as_another(
    was: Original, draw: st.DataObject, file: Path
) -> None:
    path, value, (start, stop) = draw.draw(st.sampled_from(list(vocabulary(was.data))))
    word = draw.draw(misspelt(value[start:stop]))
    note(f"{was.name}: {dotted(path)}: {value!r} → {word!r}")
    message = refused(file, was, changed(was.data, path, value[:start] + word + value[stop:]), path)
    assert word in message and "llowed" in message


@settings(max_examples=60, **REPEATABLE)
@given(was=FILE, draw=st.data(), hostile=st.sampled_from(HOSTILE))
def test_hostile_and_broken_expressions_are_refused_and_never_run(
    was: Original, draw: st.DataObject, hostile: str, file: Path
) -> None:
    places = [path for path, _ in entries(was.data) if is_expression(path)]
    places += [
        path for path, _ in entries(was.data) if path[-1] in ("output_activation", "input_shape", "output_shape")
    ]
    path = draw.draw(st.sampled_from(places or [("models", "policy", "output_activation")]))
    note(f"{was.name}: {dotted(path)}: {hostile[:80]!r}")
    message = refused(file, was, changed(was.data, path, hostile), path)
    assert len(message) < 2000 + 3 * len(hostile)
    assert not (Path.cwd() / "pwned").exists()


def plain(expression: Any, was: Original) -> str:
    """Without the prefix, and with the token that STATES was before skrl 2."""
    text = str(expression).replace("Shape.", "")
    return text.replace("STATES", "OBSERVATIONS") if era_of(was.data).before_2 else text


def equivalent(was: Original, path: Key, old: Any, new: Any) -> bool:
    """Whether two values of one place in a model are documented ways to write the same."""
    key = next(part for part in reversed(path) if isinstance(part, str))
    if key in ACTIVATION_KEYS:
        one, other = ([activation_name(name, "") for name in (x if isinstance(x, list) else [x])] for x in (old, new))
        one, other = one or ["identity"], other or ["identity"]
        return one == other or {*one, *other} == {one[0]}
    if key in ("hiddens", "layers", "network"):
        return (old or []) == (new or [])
    if is_expression(path) or key in ("input_shape", "output_shape"):
        return plain(old, was) == plain(new, was)
    return bool(type(old) is type(new) and old == new) or (key == "output_scale" and float(old) == float(new))


def shapes(path: Key) -> bool:
    """Whether a Network depends on what is at `path`."""
    return path[0] == "models" or path == ("agent",) or (len(path) > 1 and str(path[1]).startswith(SHAPING))


@settings(max_examples=180, **REPEATABLE)
@given(was=FILE, draw=st.data(), value=VALUES, in_models=st.booleans())
def test_another_value_is_refused_or_means_what_it_says(
    was: Original, draw: st.DataObject, value: Any, in_models: bool, file: Path
) -> None:
    paths = [path for path, _ in entries(was.data) if not in_models or path[0] == "models"]
    path = draw.draw(st.sampled_from(paths))
    old, data = at(was.data, path), changed(was.data, path, value)
    note(f"{was.name}: {dotted(path)}: {old!r} → {value!r}")
    config, message = outcome(file, yaml.safe_dump(data, sort_keys=False))
    if config is None:
        # Sequences have a length only where a layer remembers, and it may be the layer that was changed. A length is
        # told where it stands, and with it the key of which nothing is left to learn from.
        short = path[0] == "agent" and ": trainer.timesteps" in message and f"{dotted(path)} {value} " in message
        assert f": {path[0]}" in message or (path[0] == "models" and ": agent.sequence_length" in message) or short
        return
    network = built(config, was.environment)
    if era_of(data) is not era_of(was.data):
        return
    if not shapes(path):
        assert network == was.network
    elif len(path) > 2 and path[2] in LAYERS and (str(path[2]).startswith("output") or counts(was.data, path[1])):
        models, before = config.models, was.config.models
        same = (models.policy.plan, models.value.plan) == (before.policy.plan, before.value.plan)
        assert same is equivalent(was, path, old, value)
        assert network is None or same is (network == was.network)


@settings(max_examples=60, **REPEATABLE)
@given(was=FILE, draw=st.data())
def test_a_missing_key_is_refused_or_leaves_the_rest_as_it_is(was: Original, draw: st.DataObject, file: Path) -> None:
    path = draw.draw(st.sampled_from([path for path, _ in entries(was.data)]))
    data = plain_copy(was.data)
    del at(data, path[:-1])[path[-1]]
    note(f"{was.name}: without {dotted(path)}")
    config, _ = outcome(file, yaml.safe_dump(data, sort_keys=False))
    if config is not None:
        network = built(config, was.environment)
        assert network == was.network or shapes(path) or era_of(data) is not era_of(was.data)


# ---------------------------------------------------------------------------------------------- mutations of the text

LINE = re.compile(r"^( *)([A-Za-z_]\w*):(.*)$")
TAGS = ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/tuple", "!env", "!!set", "!!binary",
        "!!omap", "!!timestamp", "!!nothing"]  # fmt: skip
PLAIN_TAGS = [
    "!!int",
    "!!float",
    "!!bool",
    "!!null",
    "!!str",
    "!!seq",
    "!!map",
    "!",
    "&a",
    "*a",
    "&a *a",
    "? ",
    "- ",
    "|",
    ">",
]


def lines_of(was: Original) -> tuple[list[str], list[int]]:
    """A file's lines, and which of them are `key: …` of a block."""
    lines = was.text.splitlines()
    return lines, [number for number, line in enumerate(lines) if LINE.match(line)]


@settings(max_examples=40, **REPEATABLE)
@given(was=FILE, draw=st.data())
def test_a_key_that_is_written_twice_is_refused_at_its_line(was: Original, draw: st.DataObject, file: Path) -> None:
    lines, keys = lines_of(was)
    number = draw.draw(st.sampled_from(keys))
    match = LINE.match(lines[number])
    assert match is not None
    lines.insert(number, f"{match[1]}{draw.draw(st.sampled_from([match[2], repr(match[2])]))}: 3")
    config, message = outcome(file, "\n".join(lines))
    assert config is None
    assert message.startswith(f"{file}:{number + 2}: ") and f"{match[2]}: given twice in one block" in message


@settings(max_examples=40, **REPEATABLE)
@given(was=FILE, draw=st.data(), tag=st.sampled_from(TAGS))
def test_tags_that_build_objects_are_refused(was: Original, draw: st.DataObject, tag: str, file: Path) -> None:
    lines, keys = lines_of(was)
    number = draw.draw(st.sampled_from(keys))
    lines[number] = LINE.sub(rf"\1\2: {tag}\3", lines[number])
    config, message = outcome(file, "\n".join(lines))
    assert config is None and "not valid YAML" in message and f"{file}:" in message


@settings(max_examples=80, **REPEATABLE)
@given(was=FILE, draw=st.data(), marks=st.lists(st.sampled_from(PLAIN_TAGS), min_size=1, max_size=3))
def test_plain_tags_and_anchors_in_any_place_do_no_harm(
    was: Original, draw: st.DataObject, marks: list[str], file: Path
) -> None:
    lines, keys = lines_of(was)
    for mark in marks:
        number = draw.draw(st.sampled_from(keys))
        lines[number] = LINE.sub(rf"\1\2: {mark}\3", lines[number])
    harmless(file, was, "\n".join(lines))


@settings(max_examples=80, **REPEATABLE)
@given(was=FILE, draw=st.data())
def test_a_file_that_ends_anywhere_is_refused_or_read_as_far_as_it_goes(
    was: Original, draw: st.DataObject, file: Path
) -> None:
    harmless(file, was, was.text[: draw.draw(st.integers(0, len(was.text) - 1))])


@settings(max_examples=80, **REPEATABLE)
@given(was=FILE, draw=st.data(), noise=st.binary(min_size=1, max_size=6), length=st.integers(0, 12))
def test_random_bytes_anywhere_do_no_harm(
    was: Original, draw: st.DataObject, noise: bytes, length: int, file: Path
) -> None:
    raw = was.text.encode()
    start = draw.draw(st.integers(0, len(raw)))
    harmless(file, was, raw[:start] + noise + raw[start + length :])


@settings(max_examples=60, **REPEATABLE)
@given(was=FILE, draw=st.data(), indent=st.sampled_from(["", " ", "    ", "\t", "- "]))
def test_lines_that_are_moved_or_indented_anew_do_no_harm(
    was: Original, draw: st.DataObject, indent: str, file: Path
) -> None:
    lines, keys = lines_of(was)
    line = lines.pop(draw.draw(st.sampled_from(keys)))
    lines.insert(draw.draw(st.integers(0, len(lines))), indent + line)
    harmless(file, was, "\n".join(lines))


def harmless(file: Path, was: Original, text: str | bytes) -> None:
    """Refused, or a configuration that is written down and read back as the same, whose network can be told."""
    config, _ = outcome(file, text)
    if config is not None:
        built(config, was.environment)
