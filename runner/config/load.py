"""YAML text → plain data plus the line of every key. Nothing in the text is executed or trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import yaml
from typing_extensions import override

from runner.config.numbers import FIRST, LONGEST, REAL, WHOLE, number
from runner.errors import UserError, shown
from runner.files import expanded

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
"""Nodes after anchors are expanded: a configuration has hundreds, an anchor bomb billions."""
DEEPEST = 100
"""Blocks and lists in one another, of a Python program's data."""
LONGEST_WORD = 100
"""Characters of a scalar that count as one node."""

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """The file, or other place, that a configuration came from."""

    name: str
    lines: dict[Key, int] = field(default_factory=dict)
    overridden: frozenset[Key] = frozenset()
    """Keys that the command line set."""
    written: dict[Key, Key] = field(default_factory=dict)
    """Canonical key path → the file's older name for it."""

    def where(self, key: Key) -> str:
        """`cfg.yaml:12: agent.learning_rate` for a key path, or the nearest parent that has a line."""
        made_there = key not in self.lines and any(k[: len(key)] == key for k in self.overridden)
        if key and (made_there or any(key[: len(k)] == k for k in self.overridden)):
            return f"command line: {dotted(key)}"
        key = next((old + key[len(new) :] for new, old in self.written.items() if key[: len(new)] == new), key)
        for end in range(len(key), 0, -1):
            if key[:end] in self.lines:
                return f"{self.name}:{self.lines[key[:end]]}: {dotted(key)}"
        return f"{self.name}: {dotted(key)}"


def dotted(key: Key) -> str:
    """`('models', 'policy', 0)` → `models.policy.0`."""
    return ".".join(str(part) for part in key) or "(top level)"


_STRING, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_DATE = "tag:yaml.org,2002:timestamp"
_PLAIN = (_STRING, _INT, _FLOAT, *(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "seq", "map")), None)
"""Tags that a value may have; None is every other one, which is refused."""


_ADVICE = {
    "could not determine a constructor": "tags that build objects are never executed, write plain values",
    "mapping values are not allowed here": "a key has a line of its own, indented as those beside it",
    "could not find expected ':'": "a colon and a space follow a key",
    "cannot start any token": "indent with spaces, and quote texts that begin with such a character",
    "expected <block end>": "keys of one block are indented alike, and quotes are closed",
    "found unexpected end of stream": "a quote is not closed",
    "but found another document": "a file is one document",
}
"""What PyYAML says is wrong → what is right."""
_BEGUN = ("while scanning a simple key", "while scanning a quoted scalar")
"""What PyYAML was at where it says too late that something is missing."""


class _Loader(yaml.SafeLoader):
    """SafeLoader of plain values: numbers are YAML 1.2's, dates are text, `yes` and `off` are PyYAML's, as for skrl."""

    @override
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag in (_INT, _FLOAT) and len(node.value) > LONGEST:
            raise yaml.constructor.ConstructorError(
                problem=f"a number of more than {LONGEST} characters", problem_mark=node.start_mark
            )
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError):
            # A tag that was written out, such as `!!bool maybe`.
            problem = f"{node.value!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from None

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """The number that a plain value, or one with a tag, is written as."""
        found = number(self.construct_scalar(node))
        if found is None or (node.tag == _INT and isinstance(found, float)):
            raise ValueError(node.value)
        return float(found) if node.tag == _FLOAT else found


# Copies, not the class attributes that every SafeLoader of the process shares.
_Loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _PLAIN}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT, _DATE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in ((_INT, WHOLE), (_FLOAT, REAL)):
    _Loader.add_constructor(_tag, _Loader.construct_number)
    _Loader.add_implicit_resolver(_tag, _pattern, list(FIRST))


class _Dumper(yaml.SafeDumper):
    """Quotes every text that our loader or PyYAML's would read as something else; lists of plain values in one line."""

    @override
    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = not any(isinstance(value, dict | list) for value in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)

    @override
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {
    first: [*_Loader.yaml_implicit_resolvers.get(first, []), *yaml.SafeDumper.yaml_implicit_resolvers.get(first, [])]
    for first in _Loader.yaml_implicit_resolvers | yaml.SafeDumper.yaml_implicit_resolvers
}


def dump(data: Mapping[str, Any]) -> str:
    """Plain data as the YAML text that `parse` reads back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)


def parse_scalar(text: str) -> Any:
    """Parse one value as it would be read from a YAML file; for `a.b=value` on the command line."""
    return parse(text, "command line")[0]


def parse(text: str, name: str) -> tuple[Any, Source]:
    """Parse YAML text into dicts, lists and scalars."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, Source(name)
        source = Source(name)
        _check(node, (), source, {}, set())
        return loader.construct_document(node), source
    except yaml.YAMLError as error:
        begun = getattr(error, "context", None) in _BEGUN
        mark = getattr(error, "context_mark" if begun else "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        problem += "".join(f"; {advice}" for said, advice in _ADVICE.items() if said in problem)
        raise UserError(f"{where}: not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply to be a configuration") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check(node: yaml.Node, key: Key, source: Source, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """Number of nodes below `node` with anchors expanded, long texts as several.

    On the way notes lines, refuses repeated keys, and makes every key the text that is written, even `on` and `5`.
    """
    if id(node) in open_nodes:
        raise UserError(f"{source.where(key)}: an anchor that contains itself")
    if id(node) in sizes:
        return sizes[id(node)]
    line = node.start_mark.line + 1
    source.lines.setdefault(key, line)
    open_nodes.add(id(node))
    size = 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value) // LONGEST_WORD
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for place, (key_node, value_node) in enumerate(node.value):
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{source.name}:{line}: a key must be a plain word")
            name = key_node.value
            if key_node.tag in _PLAIN:  # a node of its own, since an anchor may make this one a value elsewhere
                node.value[place] = yaml.ScalarNode(_STRING, name, key_node.start_mark), value_node
            if name in seen and key_node.tag != _MERGE:
                raise UserError(
                    f"{source.name}:{key_node.start_mark.line + 1}: {dotted((*key, name))}: given twice in one block"
                )
            seen.add(name)
            source.lines[(*key, name)] = key_node.start_mark.line + 1
            size += _check(value_node, (*key, name), source, sizes, open_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            size += _check(child, (*key, index), source, sizes, open_nodes)
    open_nodes.discard(id(node))
    if size > MAX_NODES:
        raise UserError(f"{source.name}:{line}: anchors expand to more than {MAX_NODES:,} values; write them out")
    sizes[id(node)] = size
    return size


def read_yaml(path: str | Path) -> tuple[dict[str, Any], Source]:
    """Read a YAML file whose top level is a mapping."""
    path = expanded(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, not a configuration file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x})") from None
    data, source = parse(text, str(path))
    if data is None:
        raise UserError(f"{path}: empty; a configuration needs at least models, agent and trainer")
    if not isinstance(data, dict):
        raise UserError(f"{path}: the top level is a {type(data).__name__}, it must be a mapping of keys to values")
    return data, source


def plain_copy(value: Any) -> Any:
    """A deep copy of plain data in which nothing is shared, as it is in YAML with anchors."""
    if isinstance(value, Mapping):
        return {k: plain_copy(v) for k, v in value.items()}
    return [plain_copy(v) for v in value] if isinstance(value, list) else value


def plain(value: Any, key: Key = ()) -> Any:
    """Data of a Python program as a file would hold it: numpy's numbers, arrays, tuples and paths become plain ones."""
    if len(key) > DEEPEST:
        raise UserError(f"configuration: {dotted(key[:3])}: nested too deeply; does it contain itself?")
    if isinstance(value, Mapping):
        return {str(name): plain(inner, (*key, str(name))) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), key)
    if isinstance(value, list | tuple):
        return [plain(inner, (*key, place)) for place, inner in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise UserError(
        f"configuration: {dotted(key)}: found {shown(value, 80)}, of type {kind}; allowed: numbers, texts, true, "
        "false, null, lists and blocks of them, as in a YAML file"
    )
