"""Mixed batches through torch.compile: exact rows, one graph for every list of names, plain calls as before."""

import contextlib
import copy
import threading
import warnings

import peft
import pytest
import torch
from packaging.version import Version
from torch import nn

import shim
from shim import graphs
from tests.tiny_models import classifier, llama

pytest.importorskip("torch._dynamo")  # what can be served is asked of it, where it is imported
pytestmark = pytest.mark.skipif(not graphs.can_serve(), reason="dynamo guards no function modes before torch 2.6")

NAMES = ["fr", "de", "__base__"]
LISTS = [NAMES, NAMES[::-1], ["de", "de", "fr"], ["de"] * 3, ["__base__"] * 3]


@pytest.fixture(autouse=True)
def fresh_dynamo(installed_shim):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def skip_without_context_managers():
    """Skip where dynamo breaks its graph at every context manager, as in PEFT's own forward: torch 2.6."""

    @contextlib.contextmanager
    def nothing():
        yield

    def function(x):
        with nothing():
            return x.sin()

    try:
        torch.compile(function, backend="eager", fullgraph=True)(torch.ones(1))
    except torch._dynamo.exc.Unsupported:
        pytest.skip("this torch makes no full graph of PEFT's own forward")
    torch._dynamo.utils.counters.clear()


def whole(model, **options):
    skip_without_context_managers()
    return torch.compile(model, **options)


def in_place(model, **options):
    skip_without_context_managers()
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


CASES = [(llama, way, "plain") for way in WAYS] + [(llama, whole, "mixed"), (llama, blocks, "mixed")]
CASES += [(classifier, inner, "mixed"), (classifier, blocks, "plain")]


@pytest.mark.parametrize(("build", "way", "first"), CASES)
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


# Not a llama by inductor: in its float32 norms the plain graph, too, rounds otherwise than the model as written.
@pytest.mark.parametrize(("build", "way", "backend"), [(llama, whole, "aot_eager"), (classifier, blocks, "inductor")])
def test_other_backends_are_right(build, way, backend):
    model, inputs = made(build)
    expected, plain = own_rows(model, inputs), alone(model, "fr", inputs)
    if backend == "inductor":
        try:
            torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.ones(3))
        except Exception as error:
            pytest.skip(f"inductor does not run here: {error}")
    compiled = way(model, backend=backend, fullgraph=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", "a mixed batch runs uncompiled")
        warnings.filterwarnings("ignore", "Skipping serialization")  # inductor's own, torch 2.6
        torch.testing.assert_close(compiled(**inputs).logits, plain)
        for names in LISTS[:2]:
            check(compiled, inputs, expected, names)


def test_two_threads_with_other_names_and_a_plain_one_do_not_meet():
    model, inputs = made(llama)
    expected, plain = own_rows(model, inputs), alone(model, "fr", inputs)
    with torch.no_grad():
        check(model, inputs, expected, NAMES)  # planned: dynamo sees the hooks of a trace in every thread
    compiled = forward(model, backend="eager", fullgraph=True)
    wrong = []

    def run(names):
        with torch.no_grad():
            for _ in range(4):
                try:
                    if names is None:
                        torch.testing.assert_close(compiled(**inputs).logits, plain)
                    else:
                        check(compiled, inputs, expected, names)
                except BaseException as error:
                    wrong.append(error)

    threads = [threading.Thread(target=run, args=(names,)) for names in (NAMES, None, NAMES[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_mixed_call_keeps_its_names_while_another_thread_compiles():
    model, inputs = made(llama)
    expected = own_rows(model, inputs)
    compiling, done = threading.Event(), threading.Event()

    def slow(graph, _):
        compiling.set()
        done.wait(60)
        return graph

    with torch.no_grad():
        check(model, inputs, expected, NAMES)  # planned: a trace waits for a compilation
    thread = threading.Thread(target=lambda: torch.compile(lambda x: x.sin(), backend=slow)(torch.ones(2)))
    thread.start()
    try:
        assert compiling.wait(60)
        with torch.no_grad():
            check(model, inputs, expected, NAMES)
    finally:
        done.set()
        thread.join()


def test_with_gradients_it_runs_as_written_and_says_so():
    model, inputs = made(llama)
    expected = own_rows(model, inputs)
    model.requires_grad_(True)
    model(**inputs, adapter_names=NAMES).logits.sum().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    inner_in_place(model, backend="eager", fullgraph=True)
    model(**inputs)  # a graph that must not answer
    with pytest.warns(UserWarning, match=r"uncompiled: gradients are enabled"):
        output = model(**inputs, adapter_names=NAMES).logits
    torch.testing.assert_close(output, expected(NAMES))
    output.sum().backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert set(found) == set(gradients)
    for name, value in gradients.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_checkpoints_run_again_as_written_under_the_calls_names():
    def gradients(compile_blocks):
        model, inputs = made(llama)
        model.requires_grad_(True).train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if compile_blocks:
            blocks(model, backend="eager")
        model(**inputs, adapter_names=NAMES).logits.pow(2).sum().backward()
        return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    expected = gradients(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gradients(True)
    assert any(value.abs().max() > 1e-3 for name, value in expected.items() if ".de." in name)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name.replace("._orig_mod", "")], value, msg=name)


class Saving(nn.Module):
    """An embedding, a convolution, a linear layer that is called twice, and a head that adapters save."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(7, 4), nn.Conv1d(4, 4, 1)
        self.twice, self.head = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def forward(self, ids):
        x = self.mix(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        return self.head(self.twice(self.twice(x).sin()))


@pytest.mark.skipif(
    Version(peft.__version__) < Version("0.12"),
    reason="peft 0.11 has no LoRA on one-dimensional convolutions, and forgets the first adapter's DoRA",
)
@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_other_layers_and_saved_modules_are_served(options):
    torch.manual_seed(0)
    targets = ["twice"] if options else ["embed", "mix", "twice"]
    config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["head"], init_lora_weights=False, **options)
    model = peft.get_peft_model(Saving(), config, adapter_name="fr")
    model.add_adapter("de", config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".de." in name:
                value.normal_()
    model = model.double().eval()
    ids = torch.arange(12).view(3, 4) % 7
    compiled = whole(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for names in LISTS[:2]:
            expected = model(ids, adapter_names=names)
            assert not torch.allclose(expected[:1], model(ids)[:1]) or names[0] == "fr"
            torch.testing.assert_close(compiled(ids, adapter_names=names), expected, rtol=1e-9, atol=1e-9)
    assert graphs_made() == 1


def test_a_copy_of_a_model_has_graphs_of_its_own():
    model, inputs = made(llama)
    with torch.no_grad():
        inner_in_place(model, backend="eager", fullgraph=True)(**inputs, adapter_names=NAMES)
        twin = copy.deepcopy(model)
        for value in twin.parameters():
            value.mul_(1.5)
        expected = own_rows(twin, inputs)
        inner_in_place(twin, backend="eager", fullgraph=True)
        check(twin, inputs, expected, NAMES)


def test_a_model_that_is_cast_is_served_anew():
    config = peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), config, adapter_name="fr").eval()
    model.add_adapter("de", config)
    x = torch.randn(3, 3)
    compiled = whole(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for dtype in (torch.float32, torch.float64):
            model.to(dtype)
            expected = model(x.to(dtype), adapter_names=NAMES)
            torch.testing.assert_close(compiled(x.to(dtype), adapter_names=NAMES), expected)
            with torch.inference_mode():
                torch.testing.assert_close(compiled(x.to(dtype), adapter_names=NAMES), expected)
    assert graphs_made() > 1


def test_a_failure_leaves_no_trace_and_the_next_call_is_right():
    model, inputs = made(llama)
    expected, plain = own_rows(model, inputs), alone(model, "fr", inputs)
    compiled = whole(model, backend="eager", fullgraph=True)
    layer = next(module for module in model.modules() if isinstance(module, peft.tuners.lora.Linear))
    with torch.no_grad():
        check(compiled, inputs, expected, NAMES)

        def fail(*_):
            raise KeyboardInterrupt

        handle = layer.base_layer.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            compiled(**inputs, adapter_names=NAMES)
        handle.remove()
        assert torch._C._len_torch_function_stack() == 0
        torch.testing.assert_close(compiled(**inputs).logits, plain)
        check(compiled, inputs, expected, NAMES)
        with pytest.raises(shim.UnknownAdapterError):
            compiled(**inputs, adapter_names=["fr", "nl", "de"])


def test_what_graphs_cannot_serve_runs_as_written_and_is_said_once():
    model, inputs = made(llama)
    expected = own_rows(model, inputs)

    def refusing(graph, _):
        if any("adapted_layer" in str(node.target) for node in graph.graph.nodes):
            raise RuntimeError("no operators here")
        return graph

    compiled = inner(model, backend=refusing, fullgraph=True)
    with torch.no_grad():
        with pytest.warns(UserWarning, match=r"a mixed batch runs uncompiled"):
            check(compiled, inputs, expected, NAMES)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            check(compiled, inputs, expected, NAMES[::-1])


@pytest.mark.parametrize("change", ["left out", "joined"])
def test_a_graph_that_changes_the_calls_is_not_believed(change):
    model, inputs = made(llama)
    expected = own_rows(model, inputs)

    def changing(graph, _):
        nodes = [node for node in graph.graph.nodes if "adapted_layer" in str(node.target)]
        if nodes:
            q, v = nodes[0], nodes[1]
            if change == "left out":
                v.replace_all_uses_with(q)
                graph.graph.erase_node(v)
            else:
                v.args = q.args
            graph.recompile()
        return graph.forward  # torch 2.6 would compile the call of a graph's module

    compiled = inner(model, backend=changing, fullgraph=True)
    with torch.no_grad(), pytest.warns(UserWarning, match=r"a mixed batch runs uncompiled: a graph"):
        check(compiled, inputs, expected, NAMES)


def test_a_generate_is_right_though_the_model_is_compiled():
    model, inputs = made(llama)
    settings = {"max_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        expected = model.generate(**inputs, **settings, adapter_names=NAMES)
        forward(model, backend="eager")(**inputs)
        assert torch.equal(model.generate(**inputs, **settings, adapter_names=NAMES), expected)


def test_uninstalling_restores_torch():
    eval_frame = torch._dynamo.eval_frame
    ours = eval_frame._callback_from_stance, eval_frame.OptimizedModule.__call__
    shim.uninstall()
    try:
        assert eval_frame._callback_from_stance is not ours[0]
        assert eval_frame.OptimizedModule.__call__ is not ours[1]
        assert "__call__" not in vars(peft.PeftModel)
    finally:
        shim.install()
