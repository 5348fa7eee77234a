"""Each row of a mixed call against the same row of the batch under its adapter alone."""

import torch

NAMES = ["ann", "__base__", "ben", "ann"]


def samples(count, seed=1, length=6):
    return torch.randn(count, length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check_rows(model, alone, x, names):
    """Check each row of a mixed call against the same row of the batch under its adapter alone."""
    with torch.no_grad():
        mixed = model(x, adapter_names=names)
    whole = {name: alone(model, name, x) for name in set(names)}
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], whole[name][row], rtol=1e-9, atol=1e-12)
        for other in set(names) - {name}:
            assert (whole[other][row] - whole[name][row]).abs().max() > 1e-4, "the adapters are too alike"


def check_samples(model, alone, x, names):
    """Check each row of a mixed call against its sample alone, under its adapter alone."""
    with torch.no_grad():
        mixed = model(x, adapter_names=names)
    for row, name in enumerate(names):
        sample = {other: alone(model, other, x[row : row + 1])[0] for other in set(names)}
        torch.testing.assert_close(mixed[row], sample[name], rtol=1e-9, atol=1e-12)
        for other in set(names) - {name}:
            assert (sample[other] - sample[name]).abs().max() > 1e-4, "the adapters are too alike"


def counting(body):
    """`body`, and the list of the lengths of the batches that it has run on."""
    calls = []

    def counted(toy, x):
        calls.append(tuple(x.shape[:2]))
        return body(toy, x)

    return counted, calls


X = samples(4)
