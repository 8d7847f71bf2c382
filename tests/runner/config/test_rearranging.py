"""Methods that change an array's shape, as people write them in skrl's files: what torch does, in both backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runner.config.network.expressions import evaluate, parse
from runner.errors import UserError

ROWS = 5
"""No size of an axis, so that none is taken for the batch."""
SHAPES = {"OBSERVATIONS": (12,), "image": (2, 3, 4), "thin": (1, 3, 1)}
READ = [
    "OBSERVATIONS.view(-1, 3, 4)",
    "OBSERVATIONS.view((-1, 2, 3, 2))",
    "OBSERVATIONS.reshape(OBSERVATIONS.shape[0], 3, -1)",
    "OBSERVATIONS.reshape(image.size(0), -1)",
    "OBSERVATIONS.reshape([len(image), 2, -1])",
    "OBSERVATIONS[:, 2:8].view(-1, 2, 3).transpose(1, 2).flatten(1)",
    "OBSERVATIONS.unflatten(1, (3, 4))",
    "OBSERVATIONS.unflatten(-1, (2, -1)).permute(0, 2, 1)",
    "image.flatten(1)",
    "image.flatten(start_dim=1, end_dim=2)",
    "image.flatten(-2)",
    "image.flatten(start_dim=-3)",
    "image.transpose(1, -1)",
    "image.swapaxes(2, 3).contiguous().view(len(image), -1)",
    "image.permute(0, 3, 1, 2)",
    "image.permute((0, -1, 1, 2))",
    "image.permute(dims=[0, 2, 3, 1])",
    "image.movedim(1, -1)",
    "image.unsqueeze(1).unsqueeze(-1)",
    "image.unsqueeze(dim=2)",
    "thin.squeeze(1)",
    "thin.squeeze(-1)",
    "thin.squeeze(2)",
    "thin.squeeze()",
    "thin.squeeze((1, 3))",
    "torch.flatten(image, 1)",
    "torch.flatten(image, start_dim=1)",
    "torch.reshape(OBSERVATIONS, (-1, 3, 4))",
    "torch.permute(image, (0, 3, 1, 2))",
    "torch.transpose(image, 1, 2)",
    "torch.squeeze(thin, 1)",
    "torch.unsqueeze(OBSERVATIONS, 1)",
    "torch.cat([OBSERVATIONS, image.flatten(1)], dim=1)",
    "torch.cat((image, image), -1)",
    "torch.concatenate([image, thin.view(-1, 1, 3, 1) + image], axis=3)",
    "torch.tanh(OBSERVATIONS).view(-1, 3, 4)",
    "(OBSERVATIONS / 2).reshape(-1, 3, 4)",
]
OF_JAX = {
    "jnp.transpose(image, (0, 3, 1, 2))": "image.permute(0, 3, 1, 2)",
    "image.transpose(0, 3, 1, 2)": "image.permute(0, 3, 1, 2)",
    "jnp.moveaxis(image, 1, -1)": "image.movedim(1, -1)",
    "jnp.expand_dims(OBSERVATIONS, axis=1)": "OBSERVATIONS.unsqueeze(1)",
    "jnp.concatenate([image, image], axis=-1)": "torch.cat([image, image], -1)",
    "jax.numpy.reshape(OBSERVATIONS, (OBSERVATIONS.shape[0], -1))": "OBSERVATIONS",
}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(ROWS, *shape)).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("text", [*READ, *OF_JAX])
def test_what_is_read_is_what_torch_computes_in_both_backends(text: str) -> None:
    import jax.numpy
    import torch

    from runner.jax.models import _Operations as OfJax
    from runner.torch.models import _Operations as OfTorch

    data = arrays()
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in data.items()}
    expected = eval(OF_JAX.get(text, text), {"torch": torch, **tensors}).numpy()
    expression = parse(text, "input")
    members = {name: torch.stack([tensor, -tensor]) for name, tensor in tensors.items()}
    found = evaluate(expression, lambda name, _: members[name.text], OfTorch())
    np.testing.assert_array_equal(found[0], expected)
    assert found.shape[1:] == expected.shape
    jax_found = evaluate(expression, lambda name, _: jax.numpy.asarray(data[name.text]), OfJax())
    np.testing.assert_allclose(jax_found, expected, rtol=1e-6)


REFUSED = {
    "OBSERVATIONS.flatten()": "flatten with whole numbers for axes after the batch",
    "OBSERVATIONS.flatten(0)": "whole numbers for axes after the batch, 1 or more",
    "OBSERVATIONS.view(5, 12)": "a shape that begins with the batch: -1, or x.shape[0] where another size is -1",
    "OBSERVATIONS.view(-1, -1)": "a shape that begins with the batch",
    "OBSERVATIONS.view(3, -1)": "a shape that begins with the batch",
    "OBSERVATIONS.view()": "a shape that begins with the batch",
    "OBSERVATIONS.view(len(OBSERVATIONS), OBSERVATIONS.shape[1])": "a whole number",
    "OBSERVATIONS.unsqueeze(0)": "whole numbers for axes after the batch",
    "OBSERVATIONS.transpose(0, 1)": "whole numbers for axes after the batch",
    "OBSERVATIONS.unflatten(0, (1, 5))": "whole numbers for axes after the batch",
    "OBSERVATIONS.unflatten(1, (-1, -1))": "an axis and the sizes that it becomes",
    "OBSERVATIONS.squeeze(0)": "whole numbers for axes after the batch",
    "OBSERVATIONS.squeeze(axis=1.5)": "a whole number",
    "OBSERVATIONS.flatten(end=2)": "flatten with start_dim, end_dim",
    "OBSERVATIONS.contiguous(1)": "contiguous with",
    "torch.flatten()": "flatten with",
    "OBSERVATIONS.permute(1, 0)": "axes that are 0 (the batch) and every other axis once",
    "torch.cat([OBSERVATIONS, OBSERVATIONS])": "concatenate([a, b]), or torch.cat([a, b], dim=1)",
    "torch.cat([OBSERVATIONS, OBSERVATIONS], 0)": "an axis after the batch, such as dim=1",
    "flatten(OBSERVATIONS, 1)": "or x.method() with contiguous, expand_dims, flatten",
    "OBSERVATIONS.sum(1)": "or x.method() with contiguous, expand_dims, flatten",
    "torch.load('x')": "unknown function 'load'",
    "os.system('x')": "cannot use 'os.system'",
    "OBSERVATIONS.view.__class__(1)": "cannot use 'OBSERVATIONS.view.__class__'",
    "OBSERVATIONS.reshape(len('x'), -1)": "cannot use \"'x'\"",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_would_mix_rows_or_is_no_change_of_shape_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, "input")
    assert REFUSED[text] in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OBSERVATIONS.view(-1, 5)", "12 numbers cannot have the shape 5"),
        ("OBSERVATIONS.view(len(image), 5, -1)", "12 numbers cannot have the shape 5 x -1"),
        ("OBSERVATIONS.unsqueeze(-3)", "axis -3 of an array of 3 axes, of which the batch is the first"),
        ("image.transpose(1, 4)", "axis 4 of an array of 4 axes"),
        ("image.flatten(3, 1)", "flatten from axis 3 to 1"),
        ("image.permute(0, 2, 1)", "permute names 3 axes of an array of 4"),
        ("image.unflatten(1, (2, 2))", "2 numbers cannot have the shape 2 x 2"),
        ("image.flatten(-4)", "axis -4 of an array of 4 axes, of which the batch is the first"),
    ],
)
def test_what_does_not_fit_the_array_is_refused(text: str, message: str) -> None:
    from runner.torch.models import _Operations as OfTorch

    with pytest.raises(ValueError, match=message):
        evaluate(parse(text, "input"), lambda name, _: _tensor(name.text), OfTorch())


def _tensor(name: str) -> Any:
    import torch

    return torch.from_numpy(arrays()[name]).unsqueeze(0)
