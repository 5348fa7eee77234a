"""A model of transformers with adapters of its own takes `adapter_names`, by call and by generate."""

import copy
import pickle
import threading

import peft
import pytest
import torch
import transformers
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, LlamaConfig, LlamaForCausalLM

import shim
from shim.graphs import can_serve
from shim.install import apply_more
from shim.patch import Replacement

NAMES = ["ann", "__base__", "ben", "ann"]
SMALL = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    torch.manual_seed(0)
    return installed_shim


def adapted(model, targets, saved=None):
    for rank, name in enumerate(("ann", "ben"), 2):
        config = peft.LoraConfig(r=rank, target_modules=targets, modules_to_save=saved, init_lora_weights=False)
        model.add_adapter(config, adapter_name=name)
    for path, parameter in model.named_parameters():
        if {"ann", "ben"} & set(path.split(".")):
            parameter.data = 0.4 * torch.randn_like(parameter)
    return model.eval()


def bert():
    return adapted(BertModel(BertConfig(**SMALL, initializer_range=0.4)), ["query", "value"])


def classifier():
    model = BertForSequenceClassification(BertConfig(**SMALL, initializer_range=0.4))
    return adapted(model, ["query", "value"], saved=["classifier"])


def llama():
    config = LlamaConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.4)
    return adapted(LlamaForCausalLM(config), ["q_proj", "v_proj", "down_proj"])


def tokens(samples=4, length=5):
    return torch.randint(3, 48, (samples, length), generator=torch.Generator().manual_seed(3))


def alone(model, name, call=None, **kwargs):
    """Run under one adapter by transformers' own means, on a copy: what is active stays as it is."""
    own = copy.deepcopy(model)
    own.enable_adapters()
    own.set_adapter("ann" if name == "__base__" else name)
    if name == "__base__":
        own.disable_adapters()
    with torch.no_grad():
        return (own if call is None else getattr(own, call))(**kwargs)


def assert_rows(observed, model, value, **kwargs):
    whole = {name: value(alone(model, name, **kwargs)) for name in set(NAMES)}
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(observed[row], whole[name][row], rtol=1e-4, atol=1e-5)
        for other in set(NAMES) - {name}:
            assert (whole[other][row] - whole[name][row]).abs().max() > 1e-2, f"{other} and {name} are too alike"


def test_the_comparison_fails_where_rows_are_swapped():
    model = bert()
    with torch.no_grad():
        output = model(input_ids=tokens(), adapter_names=NAMES)[0]
    with pytest.raises(AssertionError, match="not close"):
        assert_rows(output.flip(0), model, lambda output: output[0], input_ids=tokens())


@pytest.mark.parametrize("active", ["ann", "ben", "both"])
@pytest.mark.parametrize("disabled", [False, True])
def test_each_row_is_its_own_adapters_whatever_is_active_or_disabled(active, disabled):
    model = bert()
    model.set_adapter(["ann", "ben"] if active == "both" else active)
    if disabled:
        model.disable_adapters()
    with torch.no_grad():
        before = model(tokens())[0]
        output = model(tokens(), adapter_names=NAMES)[0]
        assert torch.equal(model(tokens())[0], before)
    assert_rows(output, model, lambda output: output[0], input_ids=tokens())


def test_each_row_goes_through_its_own_head():
    model = classifier()
    with torch.no_grad():
        output = model(input_ids=tokens(), adapter_names=NAMES).logits
    assert_rows(output, model, lambda output: output.logits, input_ids=tokens())


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_generate_gives_each_row_its_own_tokens(settings):
    model = llama()
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, **settings}
    times = settings.get("num_return_sequences", 1)
    output = model.generate(tokens(), adapter_names=NAMES, **settings)
    whole = {name: alone(model, name, "generate", input_ids=tokens(), **settings) for name in set(NAMES)}
    assert output.tolist() == [whole[NAMES[row // times]][row].tolist() for row in range(4 * times)]
    assert whole["ann"].tolist() != whole["ben"].tolist() != whole["__base__"].tolist()


def test_adapters_injected_by_peft_or_inside_a_peft_model_are_found_too():
    lora = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    injected = BertModel(BertConfig(**SMALL, initializer_range=0.4))
    peft.inject_adapter_in_model(lora, injected, "ann")
    around = peft.get_peft_model(BertModel(BertConfig(**SMALL, initializer_range=0.4)), lora, adapter_name="ann").eval()
    for model in (injected.eval(), around.get_base_model()):
        with torch.no_grad():
            mixed = model(tokens(), adapter_names=["ann", "__base__", "ann", "ann"])[0]
            plain = model(tokens(), adapter_names=["__base__"] * 4)[0]
        assert torch.equal(mixed[1], plain[1])
        assert (mixed[0] - plain[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "names", "error", "says"),
    [
        (None, ["ann"], shim.AdapterNamesError, "is 1, but should be 4"),
        (None, ["ann", "eve", "ann", "ann"], shim.UnknownAdapterError, "'eve'.*'ann', 'ben'"),
        (None, "ann", shim.AdapterNamesError, "should be a list"),
        (lambda model: model.encoder.layer[0].attention.self.query.merge(), NAMES, shim.RefusedError, "merged"),
        (lambda model: model.delete_adapter("ben"), NAMES, shim.UnknownAdapterError, "'ben'"),
    ],
    ids=["count", "unknown", "string", "merged", "deleted"],
)
def test_what_cannot_be_exact_is_refused_as_under_peft(change, names, error, says):
    model = bert()
    if change is not None:
        if says == "'ben'" and not hasattr(model, "delete_adapter"):
            pytest.skip("this transformers deletes no adapters")
        change(model)
    with pytest.raises(error, match=says):
        model(tokens(), adapter_names=names)


@pytest.mark.parametrize("call", ["__call__", "generate"])
def test_a_model_without_adapters_says_so(call):
    plain = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    with pytest.raises(shim.AdapterNamesError, match=r"LlamaForCausalLM should have adapters.*add_adapter"):
        getattr(plain, call)(tokens(), adapter_names=NAMES)


def test_a_model_of_which_a_part_has_adapters_names_the_part():
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    adapted(model.model, ["q_proj"])
    with pytest.raises(shim.AdapterNamesError, match="its part 'model' has"):
        model(tokens(), adapter_names=NAMES)
    with torch.no_grad():
        assert model.model(tokens(), adapter_names=NAMES)[0].shape == (4, 5, 16)
        assert model(tokens()).logits.shape == (4, 5, 48)


class Naming(transformers.PreTrainedModel):
    """A model whose forward has a keyword of that name."""

    config_class = transformers.PretrainedConfig

    def forward(self, x, adapter_names=None):
        return x, adapter_names


def test_a_models_own_keyword_of_that_name_is_its_own():
    assert Naming(transformers.PretrainedConfig())(1, adapter_names=["x"]) == (1, ["x"])


def test_explain_plan_and_plans_on_disk(tmp_path):
    model = bert()
    inputs = {"input_ids": tokens()}
    explained = shim.explain(model, inputs, NAMES)
    assert explained.route == "one pass"
    assert "encoder.layer.0.attention.self.query" in {layer.layer for layer in explained.layers}
    assert shim.plan(model, inputs, batch_sizes=[2])[2].route == "one pass"
    assert shim.save_plans(model, tmp_path / "plans.json") == shim.load_plans(bert(), tmp_path / "plans.json") > 0


def test_a_call_that_fails_leaves_no_trace():
    model = bert()
    model.set_adapter("ben")
    with torch.no_grad():
        before = model(tokens())[0]
    layer = model.encoder.layer[1].attention.self.query
    handle = layer.base_layer.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises((ZeroDivisionError, shim.RefusedError)):
        model(tokens(), adapter_names=NAMES)
    handle.remove()
    assert not any(module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(tokens())[0], before)


def test_copies_and_pickles_take_names_before_and_after_a_call():
    model = bert()
    with torch.no_grad():
        want = model(tokens(), adapter_names=NAMES)[0]
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(tokens(), adapter_names=NAMES)[0], want)


def test_threads_with_other_names_do_not_meet():
    model = bert()
    lists = [NAMES, NAMES[::-1], None]

    def run(names):
        with torch.no_grad():
            return model(tokens(), adapter_names=names)[0]

    want, faults = [run(names) for names in lists], []

    def repeat(names, expected):
        faults.extend(names for _ in range(5) if not torch.equal(run(names), expected))

    threads = [threading.Thread(target=repeat, args=pair) for pair in zip(lists, want)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert not torch.equal(want[0], want[1])


def test_a_plain_call_still_traces_as_one_module_to_torch_fx():
    class Leaf(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, Naming)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Naming(transformers.PretrainedConfig())

        def forward(self, x):
            return self.inner(x)

    assert [node.op for node in Leaf().trace(Outer()).nodes] == ["placeholder", "call_module", "output"]


@pytest.mark.skipif(not hasattr(torch, "compiler") or not hasattr(torch.compiler, "is_compiling"), reason="old torch")
@pytest.mark.filterwarnings("ignore:Guards may run slower")  # python 3.13.0
def test_plain_calls_compile_to_the_graphs_of_upstream_and_mixed_ones_are_right_or_refused():
    model = bert()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    def compiled_graphs():
        torch._dynamo.reset()
        graphs.clear()
        with torch.no_grad():
            compiled = torch.compile(model, backend=count)
            torch.testing.assert_close(compiled(tokens())[0], model(tokens())[0])
        return len(graphs), compiled

    number, compiled = compiled_graphs()
    with torch.no_grad():
        mixed = compiled(tokens(), adapter_names=NAMES)[0]
    assert_rows(mixed, model, lambda output: output[0], input_ids=tokens())
    model.compile(backend=count)
    if can_serve():
        with torch.no_grad():
            mixed = model(tokens(), adapter_names=NAMES)[0]
        model._compiled_call_impl = None
        assert_rows(mixed, model, lambda output: output[0], input_ids=tokens())
    else:
        with pytest.raises(shim.RefusedError, match="compiled"):
            model(tokens(), adapter_names=NAMES)
    model._compiled_call_impl = None
    shim.uninstall()
    assert compiled_graphs()[0] == number
    torch._dynamo.reset()


def test_classes_made_after_installing_generate_too_and_are_given_back():
    class Speaking(LlamaForCausalLM):
        def generate(self, *args, **kwargs):
            return super().generate(*args, **kwargs, do_sample=False)

    model = llama()
    model.__class__ = Speaking
    wrapped = vars(Speaking)["generate"]
    output = model.generate(tokens(), adapter_names=NAMES, max_new_tokens=3)
    alone_output = model.generate(tokens(), adapter_names=["ben"] * 4, max_new_tokens=3)
    assert output[2].tolist() == alone_output[2].tolist()
    shim.uninstall()
    assert vars(Speaking)["generate"] is wrapped.__wrapped__
    with pytest.raises((ValueError, TypeError)):
        model.generate(tokens(), adapter_names=NAMES[:1], max_new_tokens=3)


def test_uninstalling_gives_the_classes_back():
    owners = (transformers.PreTrainedModel, transformers.GenerationMixin)
    shim.uninstall()
    before = [dict(vars(owner)) for owner in owners]
    shim.install()
    assert "__call__" in vars(transformers.PreTrainedModel)
    shim.uninstall()
    for owner, raw in zip(owners, before):
        now = {key: value for key, value in vars(owner).items() if not key.startswith("_abc")}
        assert all(raw.get(key) is value for key, value in now.items())
        assert set(now) <= set(raw)


def test_nothing_more_is_applied_where_nothing_is_installed():
    class Model:
        def forward(self):
            """Upstream's."""

    shim.uninstall()
    before = Model.forward
    apply_more([Replacement(Model, "forward", lambda self: None)])
    assert Model.forward is before


@pytest.mark.skipif(not hasattr(LlamaForCausalLM, "generate_batch"), reason="no continuous batching")
@pytest.mark.parametrize("under_peft", [False, True])
def test_names_are_refused_where_requests_are_batched_as_they_come(under_peft):
    """It takes any keyword, and would give every request the active adapter."""
    model = llama()
    if under_peft:
        config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(LlamaForCausalLM(LlamaConfig(**SMALL)), config, adapter_name="ann")
    with pytest.raises(shim.RefusedError, match=r"given to generate_batch, but should not be.*generate\("):
        model.generate_batch([], adapter_names=["ann", "__base__"])
    assert not model.generate_batch([])
