"""One pass on modules that do all sorts of things to their batch: exact, or not taken."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shim
from shim.errors import Unroutable
from shim.routing import one_pass, plans
from tests.shim.routing.bodies import APART, MIXING
from tests.shim.routing.rows_alone import NAMES, X, check_rows, check_samples, samples


@pytest.mark.parametrize("body", APART)
def test_what_keeps_samples_apart_goes_in_one_pass_and_is_exact(adapted, alone, body):
    model = adapted(body)
    assert shim.explain(model, {"x": X}, NAMES).route == "one pass"
    check_rows(model, alone, X, NAMES)


@pytest.mark.parametrize("body", MIXING)
def test_what_lets_samples_meet_does_not_go_in_one_pass(adapted, body):
    model = adapted(body)
    shim.install(fallback="refuse")
    with pytest.raises(shim.RefusedError, match=r"one pass cannot be proven exact.*shim\.install"):
        model(X, adapter_names=NAMES)


@pytest.mark.parametrize("names", [NAMES, ["ann", "__base__", "ben"], ["ann", "ben", "ben", "ann"]])
@pytest.mark.parametrize("body", MIXING)
def test_what_lets_samples_meet_is_exact_by_split_or_refused(adapted, alone, body, names):
    model, x = adapted(body), samples(len(names))  # distinct or mirrored names: parts in another order may fit
    try:
        model(x, adapter_names=names)
    except shim.RefusedError:
        return
    check_samples(model, alone, x, names)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_rows_are_exact_for_any_names_and_numbers(data):
    from tests.shim.routing.conftest import make_adapted, run_alone

    body = data.draw(st.sampled_from(APART), label="body")
    count = data.draw(st.sampled_from([2, 3, 4, 6]), label="samples")  # 6 is the length too
    if body.__name__ == "rows_that_no_single_dimension_divides":
        count = 4
    names = data.draw(st.lists(st.sampled_from(["ann", "ben", "__base__"]), min_size=count, max_size=count))
    shim.install()
    try:
        check_rows(make_adapted(body), run_alone, samples(count, seed=2), names)
    finally:
        shim.uninstall()


# ---- failures and threads


def test_a_failing_trace_leaves_no_trace(adapted, alone):
    fail = [True]

    def body(toy, x):
        y = toy.linear(x)
        torch.rand(1)
        if fail[0]:
            raise KeyboardInterrupt
        return y

    model = adapted(body)
    before, called = torch.get_rng_state(), torch.nn.Module.__call__
    with pytest.raises(KeyboardInterrupt):
        model(X, adapter_names=NAMES)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.nn.Module.__call__ is called
    fail[0] = False
    check_rows(model, alone, X, NAMES)


def test_a_plan_that_does_not_fit_leaves_the_generators_alone(adapted):
    flip = [False]

    def body(toy, x):
        y = toy.linear(x) + torch.rand(1, dtype=x.dtype)
        return toy.linear(y) if flip[0] else y

    model = adapted(body)
    torch.manual_seed(0)
    first = model(X, adapter_names=NAMES)
    flip[0] = True
    torch.manual_seed(0)
    model(X, adapter_names=NAMES)  # met by the guard, traced again
    flip[0] = False
    torch.manual_seed(0)
    torch.testing.assert_close(model(X, adapter_names=NAMES), first)


def test_many_threads_trace_and_run_at_once(adapted, alone):
    from concurrent.futures import ThreadPoolExecutor

    model = adapted(APART[1])
    rows = [["ann", "ben", "__base__", "ann"], ["ben", "ben", "ann", "__base__"], ["__base__", "ann", "ann", "ben"]]
    whole = {name: alone(model, name, X) for name in ("ann", "ben", "__base__")}

    def run(index):
        if index % 10 == 0:
            plans.forget(model)
        names = rows[index % 3]
        with torch.no_grad():
            return names, model(X, adapter_names=names)

    with ThreadPoolExecutor(8) as pool:
        for names, mixed in pool.map(run, range(60)):
            for row, name in enumerate(names):
                torch.testing.assert_close(mixed[row], whole[name][row], rtol=1e-9, atol=1e-12)


# ---- modes, devices of dispatch, and gradients


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_plan_serves_every_gradient_mode(adapted, alone, first, mode):
    model = adapted(APART[1])
    with first():
        model(X, adapter_names=NAMES)
    with mode():
        mixed = model(X, adapter_names=NAMES)
    assert mixed.requires_grad is (mode is torch.enable_grad)
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[row].detach(), alone(model, name, X)[row], rtol=1e-9, atol=1e-12)


def test_inputs_made_in_inference_mode_are_traced(adapted):
    model = adapted(APART[0])
    with torch.inference_mode():
        x = X.clone()
        assert shim.explain(model, {"x": x}, NAMES).route == "one pass"
        model(x, adapter_names=NAMES)


def test_rows_have_the_gradients_of_their_own_adapter(adapted):
    model = adapted(APART[1])
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    x = X.clone().requires_grad_(True)
    model(x, adapter_names=NAMES)[2].sum().backward()
    assert x.grad[2].abs().sum() > 0
    assert x.grad[[0, 1, 3]].abs().sum() == 0
    ann = [p.grad for path, p in model.named_parameters() if ".ann." in path]
    ben = [p.grad for path, p in model.named_parameters() if ".ben." in path]
    assert all(grad is None or grad.abs().sum() == 0 for grad in ann)
    assert all(grad.abs().sum() > 0 for grad in ben)


def test_autocast_is_traced_and_run(adapted):
    model = adapted(APART[0]).float()
    x = X.float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(x, adapter_names=NAMES)
        model.set_adapter("ben")
        own = model(x)[2]
    assert mixed.dtype is own.dtype is torch.bfloat16
    with torch.no_grad():
        truth = model.double()(x.double())[2]
    rounding = torch.finfo(torch.bfloat16).eps * truth.abs().max()
    assert (mixed[2].double() - truth).abs().max() <= (own.double() - truth).abs().max() + rounding
    assert (mixed[1].double() - truth).abs().max() > 10 * rounding


# ---- owners given by the caller


def test_owners_say_whose_rows_an_input_has(adapted, alone):
    def body(toy, x, pictures):
        rows = toy.linear(pictures)
        return {"rows": rows}

    model = adapted(body)
    x, pictures = samples(2), samples(5, seed=3)
    assert shim.explain(model, {"x": x, "pictures": pictures}, ["ann", "ben"]).route != "one pass"
    with torch.no_grad():
        mixed = model(x, pictures=pictures, adapter_names=["ann", "ben"], owners={"pictures": [0, 0, 1, 0, 1]})
    for row, name in enumerate(["ann", "ann", "ben", "ann", "ben"]):
        expected = alone(model, name, x, pictures=pictures)["rows"][row]
        torch.testing.assert_close(mixed["rows"][row], expected, rtol=1e-9, atol=1e-12)


def test_lengths_that_python_reads_have_a_plan_for_each_value(adapted, alone):
    """As packed vision towers do: patches of all images in one list, cut by a tensor of sizes."""
    calls = []

    def body(toy, x, sizes):
        calls.append(len(x))
        return torch.cat([toy.linear(part) for part in x.split(sizes.tolist())])

    model = adapted(body)
    x = samples(7)
    for sizes in ([3, 4], [5, 2], [3, 4]):
        owners = [0] * sizes[0] + [1] * sizes[1]
        given = {"x": x, "sizes": torch.tensor(sizes)}
        with torch.no_grad():
            mixed = model(**given, adapter_names=["ann", "ben"], owners={"x": owners})
        for row, sample in enumerate(owners):
            expected = alone(model, ["ann", "ben"][sample], **given)[row]
            torch.testing.assert_close(mixed[row], expected, rtol=1e-9, atol=1e-12)
    assert len(calls) == 3 + 2 + 3 * 7  # a call each, two traces, and the references


def test_owners_may_lie_along_another_dimension(adapted, alone):
    """As the patches of all images in one strip, which NaViT's towers take (MiniCPM-V)."""

    def body(toy, strip):
        return toy.linear(strip.transpose(1, 2))

    model = adapted(body)
    strip, owners = samples(5, seed=3)[:, 0].t()[None], torch.tensor([0, 0, 1, 0, 1])
    with pytest.raises(shim.AdapterNamesError, match="whose each row is"):
        model(strip=strip, adapter_names=["ann", "ben"])
    with torch.no_grad():
        mixed = model(strip=strip, adapter_names=["ann", "ben"], owners={"strip": owners.view(1, 1, 5)})
    for row, name in enumerate(["ann", "ann", "ben", "ann", "ben"]):
        expected = alone(model, name, strip=strip)[0, row]
        torch.testing.assert_close(mixed[0, row], expected, rtol=1e-9, atol=1e-12)


OWNERS_THAT_DO_NOT_FIT = [
    {"nothing": [0]},
    {"x": [0, 1]},
    {"x": [0, 1, 2, 4]},
    {"x": torch.zeros(2, 2, dtype=torch.int64)},
    {"x": torch.zeros(1, 4, dtype=torch.int64)},
]


@pytest.mark.parametrize("owners", OWNERS_THAT_DO_NOT_FIT)
def test_owners_that_do_not_fit_are_refused(adapted, owners):
    with pytest.raises(shim.AdapterNamesError, match="owners"):
        adapted(APART[0])(X, adapter_names=NAMES, owners=owners)


# ---- outputs that may be made of several samples


def contrast(toy, x):
    rows = toy.linear(x[:, 0])
    return {"rows": rows, "logits_per_pair": rows @ rows.t(), "loss": rows.sum()}


def test_outputs_may_be_made_of_several_samples_where_the_user_says_so(adapted, alone):
    model = adapted(contrast)
    with pytest.raises(shim.RefusedError, match="'logits_per_pair'"):
        model(X, adapter_names=NAMES)
    shim.install(mixed_outputs=["logits_per_pair"])
    with pytest.raises(shim.RefusedError, match="'loss'"):
        model(X, adapter_names=NAMES)
    shim.install(mixed_outputs=["logits_per_pair", "loss"])
    with torch.no_grad():
        mixed = model(X, adapter_names=NAMES)
    rows = torch.stack([alone(model, name, X)["rows"][row] for row, name in enumerate(NAMES)])
    torch.testing.assert_close(mixed["rows"], rows)
    torch.testing.assert_close(mixed["logits_per_pair"], rows @ rows.t())
    torch.testing.assert_close(mixed["loss"], rows.sum())
    shim.install()
    with pytest.raises(shim.RefusedError, match="'logits_per_pair'"):
        model(X, adapter_names=NAMES)


@pytest.mark.parametrize("settings", [{"fallback": "guess"}, {"mixed_outputs": "loss"}])
def test_a_policy_that_does_not_exist_is_refused(adapted, settings):
    with pytest.raises(ValueError, match="should be"):
        shim.install(**settings)


# ---- what is in the way is named


def test_a_layer_whose_forward_was_replaced_is_not_run_in_one_pass(adapted, alone):
    model = adapted(APART[0])
    layer = model.get_base_model().linear
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    shown = shim.explain(model, {"x": X}, NAMES)
    assert shown.route == "split"
    assert "linear" in shown.reason
    assert "replaced" in shown.reason


@pytest.mark.parametrize("length", [6, 3])
def test_a_layer_run_once_for_all_is_run_once_for_each_where_that_is_the_same(adapted, alone, length):
    def body(toy, x):
        positions = torch.arange(x.shape[1], dtype=x.dtype).view(1, -1, 1).expand(1, -1, 4)
        return x + toy.linear(positions)

    model = adapted(body)
    x = samples(4, length=length)
    shown = shim.explain(model, {"x": x}, NAMES)
    assert shown.route == "one pass"
    assert "one row for all, expanded to 4" in str(shown)
    check_rows(model, alone, x, NAMES)


def row_of_a_vector(toy, x):
    return x + toy.linear(torch.arange(4, dtype=x.dtype))


def row_of_a_time(toy, x):
    return x * toy.linear(torch.arange(4, dtype=x.dtype)[None])


def query_of_windows(toy, x):
    windows = toy.other(x).reshape(x.shape[0] * 2, 3, 4)
    queries = toy.linear(torch.arange(8, dtype=x.dtype).view(1, 2, 4))
    return ((queries @ windows.transpose(1, 2)).softmax(-1) @ toy.other(windows)).reshape(x.shape[0], 4, 4)


@pytest.mark.parametrize(
    ("body", "words"), [(row_of_a_vector, "4 x 1"), (row_of_a_time, "4 x 1"), (query_of_windows, "8")]
)
def test_a_shared_row_is_expanded_as_what_it_meets_needs(adapted, alone, body, words):
    model = adapted(body, targets=["linear", "other"])
    shown = shim.explain(model, {"x": X}, NAMES)
    assert shown.route == "one pass", shown.reason
    assert f"one row for all, expanded to {words};" in str(shown)
    check_rows(model, alone, X, NAMES)
    check_rows(model, alone, X, NAMES[::-1])


def test_a_shared_row_whose_number_counts_is_not_expanded(adapted, alone):
    def body(toy, x):
        return x + toy.linear(torch.ones(1, 6, 4, dtype=x.dtype)).sum(0)

    model = adapted(body)
    assert shim.explain(model, {"x": X}, NAMES).route == "split"
    check_rows(model, alone, X, NAMES)


def test_a_layer_that_all_samples_share_is_named(adapted):
    model = adapted(lambda toy, x: x + toy.linear(torch.ones(4, dtype=x.dtype)).sum())
    shown = shim.explain(model, {"x": X}, NAMES)
    assert shown.route == "split"
    assert "linear has weights for 'ann', 'ben'" in shown.reason
    assert "(4,)" in shown.reason


def test_unroutable_is_the_only_way_out_of_one_pass(adapted, monkeypatch):
    model = adapted(MIXING[0])
    monkeypatch.setattr(one_pass, "check_known", lambda _: None)
    from shim.batch import resolve
    from shim.routing.inputs import Inputs

    with pytest.raises(Unroutable, match="mixes samples: mean"):
        one_pass.run_one_pass(lambda **k: model.get_base_model()(**k), resolve(model, NAMES), Inputs({"x": X}), {})
