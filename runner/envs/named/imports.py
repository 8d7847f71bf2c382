"""The modules that a name in a configuration may import: gymnasium, and what a command line has allowed.

A file alone never imports code (law L7). `allow` is called with what was typed (`--env module:Name`, `--import
module`), and with what a launch that was typed on this machine has recorded, see `restore`. What is allowed is a
variable of this process's environment, so the processes that it starts may import the same.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import hmac
import importlib
import importlib.util
import json
import os
import pkgutil
import secrets
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from runner.errors import UserError, did_you_mean, last_words

VARIABLE = "SUNFLOWER_IMPORTS"
"""What is allowed, as JSON: module → folder in which it is looked for after all others."""
GYMNASIUM = "gymnasium"
WRAPPERS = ("gymnasium.wrappers", "gymnasium.wrappers.vector")
"""Modules whose public names a file may name by itself, besides ids that gymnasium registers."""
EXTRAS = {"mpe2": "agents", "pettingzoo": "agents", "Box2D": "agents"}
"""Package → the extra of this program that installs it."""


class ImportRefusedError(UserError):
    """A file names modules that nobody has allowed: `flags` would."""

    flags: tuple[str, ...] = ()


def allowed() -> dict[str, str]:
    """Module → folder, of what this process may import besides gymnasium."""
    found: dict[str, str] = json.loads(os.environ.get(VARIABLE, "{}"))
    return found


def allow(modules: Iterable[str] | Mapping[str, str]) -> None:
    """Let this process, and those that it starts, import modules, each also from a folder; default the current one.

    Folders are searched after all else: a file there called random.py is not taken for the module of that name.
    """
    if not isinstance(modules, Mapping):
        modules = dict.fromkeys(modules, os.getcwd())
    os.environ[VARIABLE] = json.dumps(allowed() | dict(modules))
    _search()


@contextlib.contextmanager
def scope() -> Iterator[None]:
    """A block after which nothing is allowed that was allowed inside it."""
    before = os.environ.get(VARIABLE)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        os.environ.update({} if before is None else {VARIABLE: before})


def module_of(name: str | None) -> list[str]:
    """The module that an `env.id` names, as a list of one; empty for an id of EnvPool or gymnasium."""
    module, colon, _ = (name or "").partition(":")
    return [module] if colon and module != GYMNASIUM else []


def check(name: str, where: str) -> None:
    """Raise an `ImportRefusedError` if a module may not be imported."""
    if name not in (GYMNASIUM, *WRAPPERS) and not _is_allowed(name):
        raise _refusal(where, [_root(name)])


def _is_allowed(module: str) -> bool:
    return _root(module) in map(_root, allowed())


def _root(module: str) -> str:
    return module.partition(".")[0]


def _refusal(where: str, modules: Sequence[str]) -> ImportRefusedError:
    flags = tuple(word for module in modules for word in ("--import", module))
    error = ImportRefusedError(
        f"{where}: {', '.join(modules)}: imported only where the command line says so, never because a file says so; "
        f"add {' '.join(flags)}"
    )
    error.flags = flags
    return error


def load(name: str, where: str) -> ModuleType:
    """Import an allowed module.

    Args:
        name: of the module.
        where: it is named, for errors.

    Raises:
        UserError: it is not allowed, not there, or it raised: its last words, and where.
    """
    check(name, where)
    _search()  # in those of the process that started this one
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}.")
        if not absent:
            advice = _installed_by(getattr(error, "name", None) or "")
            raise UserError(f"{where}: importing {name} failed: {last_words(error)}{advice}") from error
    raise UserError(
        f"{where}: there is no module {name}, neither installed nor in {' or '.join(_folders())}.{_similar(name)}"
        f"{_installed_by(name)}"
    )


def load_all() -> None:
    """Import all that is allowed: they may register ids of gymnasium."""
    for module in allowed():
        load(module, "command line")


def found(module: str, name: str, where: str) -> Any:
    """The thing of that name in a module.

    Raises:
        UserError: it cannot be imported, or has nothing of that name.
    """
    value: Any = load(module, where)
    if not _is_allowed(module) and (module == GYMNASIUM or name not in value.__all__):
        if near := "" if module == GYMNASIUM else did_you_mean(name, value.__all__):
            raise UserError(f"{where}: {module} has no {name}.{near}")
        raise _refusal(f"{where}: {module}.{name}", [module])
    for part in name.split("."):
        if part.startswith("__"):
            raise UserError(f"{where}: {part} is Python's own; allowed: a class or function of {module}")
        if isinstance(value, ModuleType) and value is not sys.modules[module]:
            raise UserError(f"{where}: {value.__name__} is another module than {module}; name the one that is meant")
        names, near = vars(value) if hasattr(value, "__dict__") else {}, ""
        try:
            value = getattr(value, part)
        except AttributeError:
            near = did_you_mean(part, [key for key, one in names.items() if callable(one)])
            if hasattr(value, "__path__") and importlib.util.find_spec(f"{module}.{part}") is not None:
                near = f" It is a module of its own: allowed: {module}.{part}:NAME"
            file = f" ({names['__file__']})" if names.get("__file__") else ""
            raise UserError(f"{where}: {module}{file} has no {name}.{near}{_shadows(module)}") from None
    return value


def _folders() -> list[str]:
    return list(dict.fromkeys(allowed().values()))


def _search() -> None:
    sys.path.extend(folder for folder in _folders() if folder not in sys.path)


def _similar(name: str) -> str:
    there = (module.name for module in pkgutil.iter_modules(_folders()))
    return did_you_mean(_root(name), there)


def _installed_by(name: str) -> str:
    """A sentence where an extra of this program has a module."""
    extra = EXTRAS.get(_root(name))
    return f" pip install 'sunflower[{extra}]' installs {_root(name)}" if extra else ""


def _shadows(module: str) -> str:
    """A sentence where a module of one's own has the name of an installed one, which comes first."""
    root = _root(module)
    folder = Path(allowed().get(module, os.getcwd()))
    own = next((path for path in (folder / f"{root}.py", folder / root) if path.exists()), None)
    imported = getattr(sys.modules.get(root), "__file__", None)
    if own is None or imported is None or Path(imported).is_relative_to(folder):
        return ""
    return f" {own} has the name of an installed module and is hidden by it; rename it"


def origin(module: str) -> Path | None:
    """The package's folder, or the file of a single module; None where there is none."""
    spec = importlib.util.find_spec(_root(module))
    places = list(spec.submodule_search_locations or [spec.origin or ""]) if spec is not None else []
    return next((Path(place) for place in places if place and Path(place).exists()), None)


def carried() -> list[Path]:
    """Folders of allowed packages that are not installed like other libraries: what travels to a cluster."""
    installed = [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")]
    found = [place for place in map(origin, allowed()) if place is not None]
    return [_folder(place) for place in found if not any(place.is_relative_to(folder) for folder in installed)]


def _folder(place: Path) -> Path:
    """A package's folder; a single module as a package, since Ray's jobs take folders only."""
    if place.is_dir():
        return place
    temporary = tempfile.mkdtemp(prefix="sunflower-module-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    package = Path(temporary) / place.stem
    package.mkdir()
    shutil.copy(place, package / "__init__.py")
    return package


# ---------------------------------------------------------------------- on record


def recorded() -> dict[str, dict[str, Any]]:
    """The record of what is allowed, for a launch: `restore` reads it.

    A record allows an import only to whom it was allowed: its seal needs a key that this program keeps in a user's own
    folder, and that no copied launch directory brings along.
    """
    return {
        module: {"folder": folder, "version": version(module), "seal": _seal(module, folder, _key(make=True))}
        for module, folder in allowed().items()
    }


def restore(record: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Allow what is on record, if it was this user who allowed it, on a machine with this home folder.

    Args:
        record: of a launch.
        where: it is, for errors.
    """
    key = _key()
    found = {
        module: str(entry["folder"])
        for module, entry in record.items()
        if key and hmac.compare_digest(str(entry["seal"]), str(_seal(module, str(entry["folder"]), key)))
    }
    known = {*map(_root, found), *map(_root, allowed())}
    if missing := [module for module in record if _root(module) not in known]:
        raise _refusal(where, missing)
    allow(found | allowed())


def _seal(module: str, folder: str, key: bytes) -> str | None:
    return hmac.new(key, f"{module}\0{folder}".encode(), hashlib.sha256).hexdigest() if key else None


def _key(make: bool = False) -> bytes:
    """This user's own; empty where there is none, or nothing can be kept."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = Path(state) / "sunflower" / "imports.key"
    try:
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        return path.read_bytes()
    except OSError:
        return b""


def version(module: str) -> str | None:
    """The version of the installed distribution that a module belongs to; None for a folder or file."""
    from importlib.metadata import packages_distributions
    from importlib.metadata import version as of

    names = packages_distributions().get(_root(module))
    return of(names[0]) if names else None
