"""Functions and methods of torch and JAX that only change an array's shape: `x.view(-1, 3, 64)`, `torch.flatten(x, 1)`.

Each either puts axes in another order or writes a row's numbers under another shape; the batch, axis 0, stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

KEYWORDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "contiguous": (),
    "flatten": (("start_dim",), ("end_dim",)),
    "moveaxis": (("source",), ("destination",)),
    "permute": (("dims", "axes"),),
    "reshape": (("shape", "size", "newshape"),),
    "squeeze": (("dim", "axis"),),
    "transpose": (("dim0", "axis0", "axis1", "axes"), ("dim1", "axis2")),
    "unflatten": (("dim",), ("sizes",)),
    "unsqueeze": (("dim", "axis"),),
}
"""Function → what its arguments after the array are called, in order."""
_ALIASES = {
    "expand_dims": "unsqueeze",
    "movedim": "moveaxis",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "view": "reshape",
}
NAMES = sorted({*KEYWORDS, *_ALIASES})
"""As they are written."""
_COUNTS = {"contiguous": (0, 0), "flatten": (1, 2), "moveaxis": (2, 2), "transpose": (2, 2), "unsqueeze": (1, 1)}
"""Least and most numbers; of the others any number, but one or more."""

Rearrangement = tuple[str, tuple[int, ...]]
"""A function of `KEYWORDS` and its numbers; of `reshape` they are sizes after the batch."""


def canonical(name: str) -> str:
    """The one name of a function of NAMES."""
    return _ALIASES.get(name, name)


def rearrangement(function: str, numbers: Sequence[int | None]) -> Rearrangement:
    """A call as it is written, checked as far as that is possible without the array; ValueError says what is allowed.

    `numbers` are the function's arguments, tuples unpacked; None is the size of the batch, `x.shape[0]`.
    """
    if function == "reshape":
        batch, *sizes = numbers or [0]
        inferred = sizes.count(-1)
        if (
            batch not in (None, -1)
            or inferred > (batch is None)
            or any(n is None or (n < 1 and n != -1) for n in sizes)
        ):
            raise ValueError("a shape that begins with the batch: -1, or x.shape[0] where another size is -1")
        return function, tuple(n for n in sizes if n is not None)
    whole = tuple(n for n in numbers if n is not None)
    if function == "transpose" and len(whole) > 2:  # numpy's and JAX's takes all axes
        function = "permute"
    if function == "permute":
        axes = tuple(axis + len(whole) if axis < 0 else axis for axis in whole)
        if axes[:1] != (0,) or sorted(axes) != list(range(len(axes))):
            raise ValueError("axes that are 0 (the batch) and every other axis once")
        return function, axes
    least, most = _COUNTS.get(function, (0 if function == "squeeze" else 2, len(whole)))
    axes = whole[:1] if function == "unflatten" else whole
    if len(whole) < len(numbers) or not least <= len(whole) <= most or 0 in axes:
        raise ValueError("whole numbers for axes after the batch, 1 or more, or negative ones from the last")
    if function == "unflatten" and (
        whole.count(-1) - (whole[0] == -1) > 1 or any(n < 1 and n != -1 for n in whole[1:])
    ):
        raise ValueError("an axis and the sizes that it becomes, one of them -1 at most")
    return function, whole


def order(function: str, numbers: tuple[int, ...], row: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of an array, batch included, in their new order; None for a function that does not move them."""
    count = len(row) + 1
    if function == "permute":
        if len(numbers) != count:
            raise ValueError(f"permute names {len(numbers)} axes of an array of {count}")
        return numbers
    if function not in ("transpose", "moveaxis"):
        return None
    one, other = (_axis(n, count) for n in numbers)
    axes = list(range(count))
    if function == "transpose":
        axes[one], axes[other] = axes[other], axes[one]
    else:
        axes.insert(other, axes.pop(one))
    return tuple(axes)


def reshaped(function: str, numbers: tuple[int, ...], row: tuple[int, ...]) -> tuple[int, ...]:
    """The new shape of a row."""
    count, new = len(row) + 1, list(row)
    if function == "reshape":
        new = list(numbers)
    elif function == "flatten":
        start, end = (_axis(n, count) for n in (*numbers, -1)[:2])
        if start > end:
            raise ValueError(f"flatten from axis {start} to {end}")
        new[start - 1 : end] = [math.prod(row[start - 1 : end])]
    elif function == "squeeze":
        chosen = [_axis(n, count) for n in numbers] or range(1, count)
        new = [size for axis, size in enumerate(row, 1) if size != 1 or axis not in chosen]
    elif function == "unsqueeze":
        new.insert(_axis(numbers[0], count + 1) - 1, 1)
    elif function == "unflatten":
        axis = _axis(numbers[0], count)
        new[axis - 1 : axis] = _filled(numbers[1:], row[axis - 1])
    return _filled(new, math.prod(row))


def _axis(number: int, count: int) -> int:
    axis = number + count if number < 0 else number
    if not 1 <= axis < count:
        raise ValueError(f"axis {number} of an array of {count} axes, of which the batch is the first")
    return axis


def _filled(sizes: Sequence[int], total: int) -> tuple[int, ...]:
    """Sizes whose product is `total`, with the number that -1 stands for."""
    known = math.prod(n for n in sizes if n != -1)
    filled = tuple(total // known if n == -1 else n for n in sizes)
    if math.prod(filled) != total:
        raise ValueError(f"{total:,} numbers cannot have the shape {' x '.join(map(str, sizes)) or 'of one number'}")
    return filled
