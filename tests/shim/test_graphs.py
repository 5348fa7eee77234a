"""Mixed batches through torch.compile: exact rows, one graph for every list of names, plain calls as before."""

import copy
import threading
import warnings

import peft
import pytest
import torch
from tiny_models import classifier, llama
from torch import nn

import shim
from shim import graphs

shim.install()
pytestmark = pytest.mark.skipif(not graphs.can_serve(), reason="dynamo guards no function modes before torch 2.6")

NAMES = ["fr", "de", "__base__"]
LISTS = [NAMES, NAMES[::-1], ["de", "de", "fr"], ["de"] * 3, ["__base__"] * 3]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def whole(model, **options):
    return torch.compile(model, **options)


def in_place(model, **options):
    model.compile(**options)
    return model


def inner(model, **options):
    model.base_model.model = torch.compile(model.base_model.model, **options)
    return model


def inner_in_place(model, **options):
    model.get_base_model().compile(**options)
    return model


def forward(model, **options):
    body = model.get_base_model().base_model
    body.forward = torch.compile(body.forward, **options)
    return model


def blocks(model, **options):
    body = model.get_base_model().base_model
    for block in body.layers if hasattr(body, "layers") else body.encoder.layer:
        block.compile(**options)
    return model


def one_projection(model, **options):
    layer = next(module for module in model.modules() if isinstance(module, peft.tuners.lora.Linear))
    layer.compile(**options)
    return model


WAYS = [whole, in_place, inner, inner_in_place, forward, blocks, one_projection]


def alone(model, name, inputs):
    """Return the logits of the whole batch under one adapter, by a copy of the model that nothing has compiled."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        if name == "__base__":
            with twin.disable_adapter():
                return twin(**inputs).logits
        twin.set_adapter(name)
        return twin(**inputs).logits


def own_rows(model, inputs):
    """Return for a list of names what each row should be, and check that the adapters are far apart."""
    expected = {name: alone(model, name, inputs) for name in NAMES}
    assert (expected["fr"] - expected["de"]).abs().amin(dim=tuple(range(1, expected["fr"].dim()))).max() > 1e-4
    return lambda names: torch.stack([expected[name][row] for row, name in enumerate(names)])


def graphs_made():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def made(build):
    model, inputs = build()
    return model.double(), inputs


def check(compiled, inputs, expected, names):
    torch.testing.assert_close(compiled(**inputs, adapter_names=names).logits, expected(names), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("first", ["plain", "mixed"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("build", [llama, classifier], ids=["llama", "bert"])
def test_one_graph_serves_every_list_of_names(build, way, first):
    model, inputs = made(build)
    expected, plain = own_rows(model, inputs), alone(model, "fr", inputs)
    compiled = way(model, backend="eager", fullgraph=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        if first == "plain":
            torch.testing.assert_close(compiled(**inputs).logits, plain)
        check(compiled, inputs, expected, NAMES)
        before = graphs_made()
        assert before > 0
        with torch._dynamo.config.patch(error_on_recompile=True):
            for names in LISTS:
                check(compiled, inputs, expected, names)
        assert graphs_made() == before
        torch.testing.assert_close(compiled(**inputs).logits, plain)
        assert graphs_made() == (before if first == "plain" else 2 * before)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("way", [whole, blocks], ids=lambda way: way.__name__)
def test_other_backends_are_right(way, backend):
    model, inputs = made(llama)
    expected, plain = own_rows(model, inputs), alone(model, "fr", inputs)
    if backend == "inductor":
        try:
            torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.ones(3))
        except Exception as error:
            pytest.skip(f"inductor does not run here: {error}")
    compiled = way(model, backend=backend, fullgraph=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.testing.assert_close(compiled(**inputs).logits, plain)
        for names in LISTS[:2]:
            check(compiled, inputs, expected, names)
