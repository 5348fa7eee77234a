"""Plans: made once for a structure, general after two lengths, never stale."""

import pytest
import torch
from transformers import PretrainedConfig

import shim
from tests.shim.routing.bodies import APART, MIXING
from tests.shim.routing.rows_alone import NAMES, X, check_rows, counting, samples


def test_one_extra_forward_for_a_structure_and_none_afterwards(adapted):
    body, calls = counting(APART[0])
    model = adapted(body)
    for names in (NAMES, NAMES, NAMES[::-1]):
        model(X, adapter_names=names)
    assert calls == [(4, 6)] * 4  # the trace, and three calls


def test_two_lengths_make_a_plan_for_every_length(adapted, alone):
    body, calls = counting(APART[0])
    model = adapted(body)
    for length in (6, 5, 9, 2):
        check_rows(model, alone, samples(4, length=length), NAMES)
    mixed = [length for count, length in calls]
    assert [mixed.count(length) for length in (6, 5, 9, 2)] == [5, 5, 4, 4]  # three are the references


def test_blocks_are_as_long_as_the_dimension_that_they_followed(adapted, alone):
    body, calls = counting(APART[5])
    assert APART[5].__name__ == "tokens_as_rows"
    model = adapted(body)
    for length in (5, 7, 9):
        check_rows(model, alone, samples(4, length=length), NAMES)
    assert calls.count((4, 9)) == 4


def test_a_layout_that_changes_with_the_length_is_traced_again(adapted, alone):
    def body(toy, x):
        if x.shape[1] > 8:  # long ones are folded
            return toy.linear(x.reshape(len(x) * 2, -1, 4)).reshape(x.shape)
        return toy.linear(x)

    model = adapted(body)
    for length in (6, 5, 10, 12, 3):
        check_rows(model, alone, samples(4, length=length), NAMES)


def test_a_transposition_that_comes_with_the_length_does_not_slip_through(adapted, alone):
    def body(toy, x):
        if x.shape[1] == 7:
            return toy.linear(x.transpose(0, 1)).transpose(0, 1)
        return toy.linear(x)

    model = adapted(body)
    for length in (6, 5, 7):
        check_rows(model, alone, samples(4, length=length), NAMES)


def test_control_flow_that_hangs_on_data_is_met_by_the_guard(adapted, alone):
    def body(toy, x):
        y = toy.linear(x)
        return toy.linear(y) if bool(x[0, 0, 0] > 0) else y

    model = adapted(body)
    for sign in (1, -1, 1):
        x = X.abs() * sign
        check_rows(model, alone, x, NAMES)


def test_layers_that_are_added_after_a_plan_are_seen(adapted, alone):
    import peft

    model = adapted(lambda toy, x: toy.linear(toy.other(x)))
    check_rows(model, alone, X, NAMES)
    config = peft.LoraConfig(r=2, target_modules=["other"], init_lora_weights=False)
    model.add_adapter("cat", config)
    model.double().eval()
    check_rows(model, alone, X, ["cat", "ann", "ben", "__base__"])
    model.delete_adapter("cat")
    check_rows(model, alone, X, NAMES)


def test_a_body_that_is_changed_after_its_plan_is_traced_again_or_right(adapted, alone):
    model = adapted(APART[0])
    check_rows(model, alone, X, NAMES)
    model.get_base_model().body = APART[1]
    check_rows(model, alone, X, NAMES)


def test_a_reason_is_kept_like_a_plan(adapted):
    body, calls = counting(MIXING[0])
    model = adapted(body)
    shim.install(fallback="refuse")
    for _ in range(3):
        with pytest.raises(shim.RefusedError):
            model(X, adapter_names=NAMES)
    assert len(calls) == 1


def test_an_error_of_the_models_own_is_not_kept(adapted, alone):
    """One bad request must not have all batches of its shape refused, or split, from then on."""

    def body(toy, x):
        if bool(x.isnan().any()):
            raise IndexError("planted")
        return toy.linear(x)

    for fallback, error in (("split", IndexError), ("refuse", shim.RefusedError)):
        shim.install(fallback=fallback)
        model = adapted(body)
        with pytest.raises(error, match="planted"):
            model(x=X * float("nan"), adapter_names=NAMES)
        assert shim.explain(model, {"x": X}, NAMES).route == "one pass"
        check_rows(model, alone, X, NAMES)
        shim.uninstall()


def test_an_error_of_the_trace_alone_is_kept(adapted):
    planted = [IndexError("planted")]

    def body(toy, x):
        if planted:  # the trace is what runs first
            raise planted.pop()
        return toy.linear(x)

    model = adapted(body)
    model(x=X, adapter_names=NAMES)
    explained = shim.explain(model, {"x": X}, NAMES)
    assert explained.route == "split"
    assert "planted" in explained.reason


def test_a_reason_that_hangs_on_integers_is_kept_for_these_alone(adapted, alone):
    calls = []

    def body(toy, x, centred):
        calls.append(len(x))
        y = toy.linear(x)
        return y - y.mean(0) if int(centred[0]) else y

    model = adapted(body)
    shim.install(fallback="refuse")
    for _ in range(2):
        for centred in (1, 0):
            given = {"x": X, "centred": torch.full((4,), centred)}
            if centred:
                with pytest.raises(shim.RefusedError, match="mixes samples"):
                    model(**given, adapter_names=NAMES)
            else:
                mixed = model(**given, adapter_names=NAMES)
                for row, name in enumerate(NAMES):
                    torch.testing.assert_close(mixed[row], alone(model, name, **given)[row], rtol=1e-9, atol=1e-12)
    assert len(calls) == 2 + 2 * (1 + 4)  # a trace for each value, and the calls with their references


@pytest.mark.parametrize("nested", [False, True])
def test_a_setting_of_the_model_that_is_changed_is_seen(adapted, nested):
    """As `config.output_router_logits`, which adds an output made of all samples."""

    def body(toy, x):
        y = toy.linear(x)
        config = toy.config.inner if nested else toy.config
        return (y, y.mean(0)) if config.wants_mean else (y,)

    shim.install(fallback="refuse")
    model = adapted(body)
    model.config = PretrainedConfig(wants_mean=False)
    model.config.inner = PretrainedConfig(wants_mean=False)
    model.get_base_model().config = model.config
    for _ in range(2):
        model(X, adapter_names=NAMES)
        (model.config.inner if nested else model.config).wants_mean = True
        with pytest.raises(shim.RefusedError, match="mixes samples"):
            model(X, adapter_names=NAMES)
        (model.config.inner if nested else model.config).wants_mean = False


def mixing(module, args, output):
    return output - output.mean(0, keepdim=True)


def turned(module, args, output):
    return output.flip(0)


def test_hooks_that_come_after_a_plan_are_not_overlooked(adapted, alone):
    def body(toy, x):
        return toy.linear(torch.tanh(toy.other(x)))

    model = adapted(body)
    shim.install(fallback="refuse")
    toy = model.get_base_model()
    for _ in range(2):
        check_rows(model, alone, X, NAMES)
        with toy.other.register_forward_hook(turned), toy.linear.register_forward_pre_hook(
            lambda m, a: (a[0].flip(0),)
        ):
            check_rows(model, alone, X, NAMES)
        with toy.linear.register_forward_hook(mixing), pytest.raises(shim.RefusedError, match="mixes samples"):
            model(X, adapter_names=NAMES)


def test_a_forward_that_is_replaced_after_a_plan_is_not_overlooked(adapted, alone):
    def body(toy, x):
        return toy.linear(torch.tanh(toy.other(x)))

    model = adapted(body)
    toy = model.get_base_model()
    check_rows(model, alone, X, NAMES)
    original = toy.forward
    for _ in range(3):  # a function each time, where the last one may have been
        toy.forward = lambda x: original(x.flip(0)).flip(0)
        check_rows(model, alone, X, NAMES)
        toy.forward = lambda x: original(x - x.mean(0))
        check_rows(model, alone, X, NAMES)  # of the inputs, which no adapter changes
    del toy.forward
    check_rows(model, alone, X, NAMES)


def test_a_hook_that_stays_costs_one_trace(adapted):
    body, calls = counting(APART[0])
    model = adapted(body)
    model.get_base_model().register_forward_hook(lambda *_: None)
    for _ in range(3):
        model(X, adapter_names=NAMES)
    assert len(calls) == 4
