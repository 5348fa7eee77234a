"""Each row of a mixed call against the same row of the batch under its adapter alone."""

import torch

NAMES = ["ann", "__base__", "ben", "ann"]


def samples(count, seed=1, length=6):
    return torch.randn(count, length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check_rows(model, alone, x, names):
    """Check each row of a mixed call against the same row of the batch under its adapter alone."""
    whole = {name: alone(model, name, x) for name in set(names)}
    _check(model, x, names, lambda name, row: whole[name][row])


def check_samples(model, alone, x, names, dim=0):
    """Check each sample of a mixed call, along `dim` of the output, against itself alone under its adapter alone."""
    _check(model, x, names, lambda name, row: alone(model, name, x[row : row + 1]).select(dim, 0), dim)


def _check(model, x, names, own, dim=0):
    """Check that sample i of a mixed call is `own(names[i], i)`, and far from what it is under the other names."""
    with torch.no_grad():
        mixed = model(x, adapter_names=names)
    for row, name in enumerate(names):
        expected = {other: own(other, row) for other in set(names)}
        torch.testing.assert_close(mixed.select(dim, row), expected[name], rtol=1e-9, atol=1e-12)
        for other in set(names) - {name}:
            assert (expected[other] - expected[name]).abs().max() > 1e-4, "the adapters are too alike"


def counting(body):
    """`body`, and the list of the lengths of the batches that it has run on."""
    calls = []

    def counted(toy, x):
        calls.append(tuple(x.shape[:2]))
        return body(toy, x)

    return counted, calls


X = samples(4)
