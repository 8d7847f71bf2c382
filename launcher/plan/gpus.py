"""The GPUs of this machine that a launch may use: those that are there, of those that CUDA_VISIBLE_DEVICES names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from launcher.cluster.connect import set_environment

MASK = "CUDA_VISIBLE_DEVICES"


class Device(NamedTuple):
    """A GPU: its UUID, and those of the MIG devices that it is divided into."""

    uuid: str
    parts: tuple[str, ...] = ()


def visible_gpus() -> int:
    """Number of GPUs that this process may use."""
    return len(usable(os.environ.get(MASK), devices()))


def mask_note() -> str | None:
    """A sentence where CUDA_VISIBLE_DEVICES names GPUs that cannot be used."""
    mask = os.environ.get(MASK)
    if mask is None:
        return None
    there = devices()
    found = usable(mask, there)
    if len(found) == len(_names(mask)):
        return None
    count = f"{len(there)} GPU{'' if len(there) == 1 else 's'}"
    used = f"only {','.join(found)} can be used" if found else "none of these can be used; training runs on the CPU"
    return f"{MASK}={mask}: this machine has {count}, {used}"


def usable(mask: str | None, there: Sequence[Device]) -> list[str]:
    """The names in a mask that CUDA finds: it ignores the first unknown or repeated one, and all behind it.

    They are indices or UUIDs, which may be cut short; no mask names all GPUs.
    """
    if mask is None:
        return [str(index) for index in range(len(there))]
    found: list[str] = []
    seen: set[str] = set()
    for name in _names(mask):
        uuid = _uuid(name, there)
        if uuid is None or uuid in seen:
            break
        found.append(name)
        seen.add(uuid)
    return found


def _names(mask: str) -> list[str]:
    """The names in a mask; `-1`, `NoDevFiles` and nothing at all hide every GPU."""
    return [] if mask.strip() in ("", "-1", "NoDevFiles") else mask.split(",")


def _uuid(name: str, there: Sequence[Device]) -> str | None:
    name = name.strip()
    if name.isascii() and name.isdigit():
        return there[int(name)].uuid if int(name) < len(there) else None
    if name.startswith("MIG-GPU-"):  # older drivers': the GPU's UUID, then numbers within it
        return name if any(name.startswith(f"MIG-{device.uuid}/") for device in there) else None
    found = [uuid for device in there for uuid in (device.uuid, *device.parts) if uuid.startswith(name)]
    return found[0] if name.startswith(("GPU-", "MIG-")) and len(found) == 1 else None


def devices() -> list[Device]:
    """NVIDIA's GPUs on this machine, by index, as Ray finds them: by the driver's own library."""
    set_environment(None)
    from ray._private.thirdparty import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [Device(_text(pynvml.nvmlDeviceGetUUID(handle)), _parts(pynvml, handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _parts(nvml: Any, handle: Any) -> tuple[str, ...]:
    parts = []
    with contextlib.suppress(nvml.NVMLError):  # a GPU that cannot be divided
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(nvml.NVMLError):  # there is none of this number
                parts.append(_text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))))
    return tuple(parts)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
