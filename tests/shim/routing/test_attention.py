"""Adapters on torch's multi-head attention: every row is what PEFT's own layer makes of it alone."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.lora import layer as lora_layers
from torch import nn

import shim
from tests.shim.attention import (
    HEADS,
    LENGTH,
    NAMES,
    alone,
    attending,
    check_rows,
    needs_attention,
    rows_alone,
    samples,
    tensors,
)

pytestmark = [needs_attention, pytest.mark.usefixtures("installed_shim")]


def call(module, query, key, **options):
    """Attend with samples in dimension 0, whatever the attention takes."""
    if module.attention.batch_first:
        return module.attention(query, key, key, **options)
    query, key = query.transpose(0, 1), key.transpose(0, 1)
    y, weights = module.attention(query, key, key, **options)
    return y.transpose(0, 1), weights


def itself(module, x):
    hidden = module.before(x)
    return call(module, hidden, hidden)


def without_weights(module, x):
    return call(module, x, x, need_weights=False)[0]


def weights_by_head(module, x):
    return call(module, x, x, average_attn_weights=False)


def padded(module, x, padding):
    return call(module, x, x, key_padding_mask=padding)


def masked(module, x):
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return call(module, x, x, attn_mask=mask)


def masked_by_row_and_head(module, x, mask):
    return call(module, x, x, attn_mask=mask.flatten(0, 1))


def masked_by_row_and_padded(module, x, mask, padding):
    padding = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, -torch.inf)
    return call(module, x, x, attn_mask=mask.flatten(0, 1), key_padding_mask=padding)


def a_probe(module, x):
    return call(module, module.probe.repeat(len(x), 1, 1), module.before(x))


def by_keyword(module, x):
    x = x if module.attention.batch_first else x.transpose(0, 1)
    y = module.attention(query=x, key=x, value=x.cos(), need_weights=False)[0]
    return y if module.attention.batch_first else y.transpose(0, 1)


def folded(module, x):
    rows = torch.cat([x, x.flip(1)], 2).reshape(2 * len(x), -1, x.shape[-1])
    return call(module, rows, rows)[0].reshape(len(x), -1, x.shape[-1])


def twice(module, x):
    return call(module, *[call(module, x, module.before(x))[0]] * 2)


# Breakpoint: peft 0.16 calls the first argument of its forward `query`, as torch does; 0.15 calls it `x`.
TAKES_QUERY = "query" in inspect.signature(getattr(lora_layers, "MultiheadAttention", nn.Module).forward).parameters
BODIES = [
    itself,
    without_weights,
    weights_by_head,
    padded,
    masked,
    masked_by_row_and_head,
    masked_by_row_and_padded,
    a_probe,
    *([by_keyword] if TAKES_QUERY else []),
    folded,
    twice,
]


def inputs_of(body, count, seed=1):
    """Return inputs for a body: samples, and the masks that its name tells of."""
    inputs = {"x": samples(count, seed)}
    generator = torch.Generator().manual_seed(seed)
    if "masked_by_row" in body.__name__:
        inputs["mask"] = torch.randn(count, HEADS, LENGTH, LENGTH, generator=generator, dtype=torch.float64)
    if "padded" in body.__name__:
        inputs["padding"] = torch.arange(LENGTH) > torch.randint(1, LENGTH, (count, 1), generator=generator)
    return inputs


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("body", BODIES)
def test_every_row_is_its_own_in_one_pass(body, batch_first):
    model = attending(body, batch_first=batch_first)
    inputs = inputs_of(body, len(NAMES))
    with torch.no_grad():
        rows = rows_alone(model, NAMES, inputs)
        assert shim.explain(model, inputs, NAMES).route == "one pass"
        check_rows(model(**inputs, adapter_names=NAMES), rows)


@pytest.mark.parametrize("options", [{"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}])
@pytest.mark.parametrize("batch_first", [True, False])
def test_any_kind_of_attention_is_exact(options, batch_first):
    if batch_first and "bias" in options and not hasattr(torch.backends, "mha"):
        pytest.skip("the fast path of torch 1.13 fails without a bias, with PEFT and without")
    model = attending(itself, batch_first=batch_first, **options)
    inputs = inputs_of(itself, len(NAMES))
    with torch.no_grad():
        rows = rows_alone(model, NAMES, inputs)
        check_rows(model(**inputs, adapter_names=NAMES), rows)


@pytest.mark.parametrize("body", BODIES)
def test_every_row_is_its_own_by_split(body, monkeypatch):
    from shim.errors import Unroutable
    from shim.routing import route

    def unroutable(*_):
        raise Unroutable("one pass is switched off")

    monkeypatch.setattr(route, "run_one_pass", unroutable)
    model = attending(body)
    inputs = inputs_of(body, len(NAMES))
    with torch.no_grad():
        rows = rows_alone(model, NAMES, inputs)
        check_rows(model(**inputs, adapter_names=NAMES), rows)


@given(
    body=st.sampled_from(BODIES),
    batch_first=st.booleans(),
    names=st.lists(st.sampled_from(["ann", "ben", "__base__"]), min_size=1, max_size=6),
    seed=st.integers(0, 2**16),
)
def test_rows_are_exact_for_any_names_and_numbers(body, batch_first, names, seed):
    model = attending(body, batch_first=batch_first)
    inputs = inputs_of(body, len(names), seed)
    with torch.no_grad():
        rows = rows_alone(model, names, inputs)
        check_rows(model(**inputs, adapter_names=names), rows)


def test_a_row_meets_no_other_adapters_weights():
    model = attending(itself)
    inputs = {"x": samples(2)}
    with torch.no_grad():
        own = tensors(alone(model, "ann", {"x": inputs["x"][:1]}))
        model.base_model.model.attention.lora_A["ben"].weight.fill_(float("nan"))
        mixed = tensors(model(**inputs, adapter_names=["ann", "ben"]))
    torch.testing.assert_close(mixed[0][:1], own[0], rtol=1e-12, atol=1e-12)
    assert mixed[0][1:].isnan().all()


def test_an_adapter_that_does_not_touch_the_attention_is_the_bases_there():
    import peft

    model = attending(itself)
    config = peft.LoraConfig(r=2, target_modules=["before"], init_lora_weights=False)
    model.add_adapter("cat", config)
    model.double()
    names = ["cat", "ann", "__base__"]
    inputs = {"x": samples(3)}
    with torch.no_grad():
        rows = rows_alone(model, names, inputs)
        check_rows(model(**inputs, adapter_names=names), rows)


def test_inputs_without_a_batch_are_not_taken_for_samples():
    model = attending(lambda module, x: module.attention(x[:, 0], x[:, 0], x[:, 0])[0])
    with pytest.raises(shim.RefusedError, match="without a dimension that counts samples"):
        model(samples(2), adapter_names=["ann", "ben"])


def test_samples_that_attend_to_each_other_are_refused():
    model = attending(lambda module, x: module.attention(x, x, x)[0])  # not batch_first: over dimension 0
    with pytest.raises(shim.RefusedError, match="samples"):
        model(samples(LENGTH), adapter_names=["ann"] * 3 + ["ben"] * 2)


def test_a_mask_that_adapters_make_of_all_samples_is_refused():
    def body(module, x):
        mask = module.before(x).mean((0, 2)).expand(LENGTH, LENGTH)
        return call(module, x, x, attn_mask=mask)[0]

    model = attending(body, batch_first=True)
    shim.install(fallback="refuse")
    with pytest.raises(shim.RefusedError, match="mixes samples: mean"):
        model(samples(2), adapter_names=["ann", "ben"])


def test_each_adapter_learns_from_its_own_rows():
    model = attending(itself, batch_first=True).train()
    inputs = {"x": samples(len(NAMES))}
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name
    for name in ("ann", "ben"):
        model.base_model.set_adapter(name)
        rows = [index for index, one in enumerate(NAMES) if one == name]
        tensors(model(inputs["x"][rows]))[0].square().sum().backward()
    expected = gradients(model)
    for parameter in model.parameters():
        parameter.requires_grad, parameter.grad = parameter.grad is not None, None
    tensors(model(**inputs, adapter_names=NAMES))[0].square().sum().backward()
    found = gradients(model)
    assert sorted(found) == sorted(expected)
    assert any("attention" in name and "ben" in name for name in found)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def gradients(model):
    """Return the gradients that there are."""
    for parameter in model.parameters():
        parameter.requires_grad = True
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
