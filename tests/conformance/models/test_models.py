"""Every model is what its entry says: buildable, seeded, row by row, adaptable, able to generate."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import ModulesToSaveWrapper

from conformance.models import MODELS, Inputs, Model, model_named
from conformance.models.precision import cast, default_dtype
from conformance.models.text_inputs import END, PAD
from conformance.models.upstream import attends_with_sdpa

ROOT = Path(__file__).parents[3]
SAMPLES = 5  # no dimension of any model is five
VISIBLE = 1e-3

every_model = pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
every_generator = pytest.mark.parametrize(
    "model", [model for model in MODELS.values() if "generates" in model.tags], ids=lambda model: model.name
)


def built(model: Model, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return model.build()


def drawn(model: Model, samples: int, length: int, seed: int = 0) -> Inputs:
    return model.inputs(samples, length, torch.Generator().manual_seed(seed))


def as_double(inputs: Inputs) -> Inputs:
    return cast(inputs, torch.float64)


def row(inputs: Inputs, index: int) -> Inputs:
    return {name: tensor[index : index + 1] for name, tensor in inputs.items()}


def leaves(output: Any, path: str = "output") -> Iterator[Tuple[str, torch.Tensor]]:
    """Yield every tensor of a forward pass but those inside cache objects."""
    if isinstance(output, torch.Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(output, (list, tuple)):
        for index, value in enumerate(output):
            yield from leaves(value, f"{path}[{index}]")


def rows_of(model: Model, module: torch.nn.Module, inputs: Inputs) -> Dict[str, torch.Tensor]:
    with torch.no_grad(), default_dtype(next(module.parameters()).dtype):
        found = dict(leaves(module(**inputs)))
    if "contrastive" in model.tags:
        compared = [path for path in found if ".logits_per_" in path]
        assert len(compared) == 2
        for path in compared:
            del found[path]
    assert found
    return found


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def change(model: Model, module: torch.nn.Module, changed: torch.nn.Module, inputs: Inputs) -> float:
    before, after = rows_of(model, module, inputs), rows_of(model, changed, inputs)
    return max(relative(after[path], before[path]) for path in before)


def test_names_are_unique_and_findable() -> None:
    assert [model_named(name) for name in MODELS] == list(MODELS.values())
    with pytest.raises(KeyError, match=r"no model is called 'lama'; there are .*\bllama\b"):
        model_named("lama")


@pytest.mark.parametrize("name", list(MODELS))
def test_rows_of_its_inputs_are_all_distinct(name: str) -> None:
    model = MODELS[name]
    for length in model.lengths:
        inputs = model.inputs(4, length, torch.Generator().manual_seed(0))
        rows = {str([value[row].tolist() for value in inputs.values()]) for row in range(4)}
        assert len(rows) == 4


def test_unknown_tag_is_refused() -> None:
    llama = model_named("llama")
    with pytest.raises(ValueError, match="'llama' has tags that do not exist: txt"):
        Model(**{**vars(llama), "tags": frozenset({"txt"})})


def test_importing_the_models_imports_nothing_heavy() -> None:
    script = (
        "import sys, conformance.models as models; assert len(models.MODELS) > 15;"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("[]\n", 0), run.stderr


@every_model
def test_one_seed_gives_identical_weights_and_another_gives_others(model: Model) -> None:
    first, second, other = built(model), built(model), built(model, seed=1)
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    for name, parameter in first.named_parameters():
        assert not torch.equal(parameter, other.get_parameter(name)), name


@every_model
def test_is_small_evaluating_and_float32(model: Model) -> None:
    module = built(model)
    assert type(module).__name__ == model.architecture or not model.architecture
    assert not any(part.training for part in module.modules())
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in module.parameters()) < 100_000


@every_model
@pytest.mark.parametrize("samples", [1, 3, 4, 8])
def test_inputs_are_seeded_count_samples_and_tell_them_apart(model: Model, samples: int) -> None:
    for length in model.lengths:
        inputs, again = drawn(model, samples, length), drawn(model, samples, length)
        assert {tensor.shape[0] for tensor in inputs.values()} == {samples}
        assert all(torch.equal(inputs[name], again[name]) for name in inputs)
        for one, two in combinations(range(samples), 2):
            assert any(not torch.equal(tensor[one], tensor[two]) for tensor in inputs.values())


def unpadded(model: Model) -> bool:
    return model.name in ("llama", "mixtral") and not attends_with_sdpa(model.architecture)


@pytest.mark.parametrize("model", [model for model in MODELS.values() if "text" in model.tags], ids=lambda m: m.name)
def test_padding_varies_on_one_side(model: Model) -> None:
    if unpadded(model):
        assert drawn(model, 16, 7)["attention_mask"].all()
        return
    mask = drawn(model, 16, 7)["attention_mask"]
    ids = drawn(model, 16, 7)["input_ids"]
    assert len(set(mask.sum(1).tolist())) > 2
    assert mask.sum(1).min() >= 1
    step = mask[:, 1:] - mask[:, :-1]
    left = "causal-lm" in model.tags or "time-major" in model.tags
    assert set(step.unique().tolist()) == ({0, 1} if left else {0, -1})
    assert torch.equal(ids == PAD, mask == 0)


@every_model
def test_rows_are_finite_differ_and_do_not_depend_on_their_neighbours(model: Model) -> None:
    module = built(model).double()
    for length in model.lengths:
        inputs = as_double(drawn(model, SAMPLES, length))
        together = rows_of(model, module, inputs)
        first = next(iter(together.values()))
        for one, two in combinations(range(SAMPLES), 2):
            assert relative(first[one], first[two]) > VISIBLE
        for index in range(SAMPLES):
            alone = rows_of(model, module, row(inputs, index))
            assert alone.keys() == together.keys()
            for path, tensor in together.items():
                assert tensor.shape[0] == SAMPLES, path
                assert torch.isfinite(tensor).all(), path
                error = relative(tensor[index], alone[path][0])
                assert error <= 1e-9, f"{path} of row {index} is off by {error:.1e} at length {length}"


def lora(targets: List[str], saved: List[str]) -> LoraConfig:
    return LoraConfig(r=2, target_modules=targets, modules_to_save=saved or None, init_lora_weights=False)


@every_model
def test_every_target_matches_and_shows(model: Model) -> None:
    inputs = as_double(drawn(model, SAMPLES, model.lengths[-1]))
    for target in model.targets:
        torch.manual_seed(1)
        adapted = get_peft_model(built(model), lora([target], [])).double().eval()
        reached = [name for name, _ in adapted.named_modules() if name.endswith(".lora_A")]
        assert reached, target
        assert change(model, built(model).double(), adapted, inputs) > VISIBLE, target


@every_model
def test_every_saved_module_matches_and_shows(model: Model) -> None:
    inputs = as_double(drawn(model, SAMPLES, model.lengths[-1]))
    for saved in model.saved:
        adapted = get_peft_model(built(model), lora(list(model.targets), [saved])).double().eval()
        wrappers = [part for part in adapted.modules() if isinstance(part, ModulesToSaveWrapper)]
        assert wrappers, saved
        for wrapper in wrappers:
            copy = wrapper.modules_to_save["default"]
            before = rows_of(model, adapted, inputs)
            with torch.no_grad():
                for parameter in copy.parameters():
                    parameter.mul_(-0.5)
            after = rows_of(model, adapted, inputs)
            assert max(relative(after[path], before[path]) for path in before) > VISIBLE, saved


@every_model
def test_no_target_lies_in_a_saved_module_nor_the_other_way(model: Model) -> None:
    names = [name for name, _ in built(model).named_modules()]
    targets = [name for name in names if f".{name}".endswith(tuple(f".{target}" for target in model.targets))]
    saved = [name for name in names if name.endswith(model.saved)]
    assert targets
    assert saved
    for one in targets:
        for two in saved:
            assert not f"{one}.".startswith(f"{two}."), (one, two)
            assert not f"{two}.".startswith(f"{one}."), (one, two)


def test_batch_norms_have_statistics_that_change_something() -> None:
    module = built(model_named("mobilevit"))
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.running_mean.abs().min() > 0
        assert norm.running_var.min() >= 0.5
        assert norm.running_var.std() > 0.05


@every_model
def test_all_targets_and_saved_modules_work_together(model: Model) -> None:
    inputs = as_double(drawn(model, SAMPLES, model.lengths[0]))
    config = lora(list(model.targets), list(model.saved))
    adapted = get_peft_model(built(model), config).double().eval()
    assert change(model, built(model).double(), adapted, inputs) > VISIBLE


def prompts(model: Model, samples: int, seed: int = 0) -> Inputs:
    inputs = as_double(drawn(model, samples, 4, seed))
    inputs.pop("decoder_input_ids", None)
    return inputs


def words(sequence: List[int]) -> List[int]:
    """Return a generated sequence up to its end, which a longer neighbour would have padded."""
    return sequence[: sequence.index(END)] if END in sequence else sequence


def generated(module: torch.nn.Module, inputs: Inputs, **options: Any) -> torch.Tensor:
    with default_dtype(torch.float64):
        made: torch.Tensor = module.generate(**inputs, do_sample=False, **options)
    return made


@every_generator
@pytest.mark.parametrize("beams", [1, 2])
def test_generates_each_row_as_alone(model: Model, beams: int) -> None:
    module, inputs = built(model).double(), prompts(model, SAMPLES)
    together = generated(module, inputs, max_new_tokens=4, num_beams=beams).tolist()
    assert len(together) == SAMPLES
    assert len({tuple(sequence[-4:]) for sequence in together}) > 1
    for index in range(SAMPLES):
        alone = generated(module, row(inputs, index), max_new_tokens=4, num_beams=beams).tolist()[0]
        assert words(alone) == words(together[index])


@every_generator
def test_generates_exactly_four_tokens_that_are_the_most_likely(model: Model) -> None:
    module, inputs = built(model).double(), prompts(model, SAMPLES)
    made = generated(module, inputs, max_new_tokens=4, min_new_tokens=4)[:, -4:]
    assert made.shape == (SAMPLES, 4)
    if "encoder-decoder" in model.tags:
        inputs["decoder_input_ids"] = torch.full((SAMPLES, 1), module.config.decoder_start_token_id)
    else:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    logits = rows_of(model, module, inputs)["output.logits"][:, -1]
    assert logits.isfinite().all()
    logits[:, END] = -float("inf")  # min_new_tokens rules it out
    assert torch.equal(logits.argmax(1), made[:, 0])


@every_generator
def test_some_rows_end_early_and_some_do_not(model: Model) -> None:
    ended = []
    for seed in range(4):
        made = generated(built(model, seed).double(), prompts(model, 16, seed), max_new_tokens=8)[:, -8:]
        ended += [END in sequence for sequence in made.tolist()]
    assert 0 < sum(ended) < len(ended)


@pytest.mark.parametrize("model", [m for m in MODELS.values() if "integer" in m.tags], ids=lambda m: m.name)
def test_integers_stay_exact_in_the_worst_case(model: Model) -> None:
    config = LoraConfig(r=8, lora_alpha=16, target_modules=list(model.targets), init_lora_weights=False)
    adapted = get_peft_model(built(model), config).eval()
    largest = 0.0

    def watch(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal largest
        largest = max([largest, *(float(tensor.abs().max()) for _, tensor in leaves(output))])

    for part in adapted.modules():
        part.register_forward_hook(watch)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.fill_(1.0)
        inputs = drawn(model, SAMPLES, model.lengths[-1])
        adapted(**{name: t.fill_(4.0) if t.is_floating_point() else t for name, t in inputs.items()})
    assert 2**16 < largest < 2**24


@pytest.mark.parametrize("model", [m for m in MODELS.values() if "integer" in m.tags], ids=lambda m: m.name)
def test_integers_are_whole_and_equal_in_both_precisions(model: Model) -> None:
    for seed in range(5):
        module, inputs = built(model, seed), drawn(model, SAMPLES, model.lengths[-1], seed)
        single = rows_of(model, module, inputs)
        double = rows_of(model, module.double(), as_double(inputs))
        for path, tensor in single.items():
            assert torch.equal(tensor.double(), double[path])
            assert torch.equal(tensor, tensor.round())
            assert tensor.unique().numel() > 10


def test_default_dtype_is_restored_after_an_error() -> None:
    inside = []
    with suppress(KeyError), default_dtype(torch.float64):
        inside.append(torch.zeros(1).dtype)
        raise KeyError
    assert inside == [torch.float64]
    assert torch.zeros(1).dtype is torch.float32


def test_folding_gives_what_unfolded_layers_give() -> None:
    model = model_named("integers-folded")
    module, inputs = built(model), drawn(model, SAMPLES, 6)
    hidden = torch.relu(module.up(inputs["hidden_states"]))
    seen: List[torch.Size] = []
    module.down.register_forward_hook(lambda _module, received, _output: seen.append(received[0].shape))
    assert torch.equal(module(**inputs)["logits"], module.head(module.down(hidden)))
    assert seen == [(2 * SAMPLES, 3, 16), hidden.shape]
