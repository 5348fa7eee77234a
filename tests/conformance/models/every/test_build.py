import pytest
import torch
import transformers
from packaging.version import Version

from conformance.compare import relative_error
from conformance.models.every import build
from conformance.models.every.classes import entries
from conformance.models.every.senses import unfed
from conformance.outputs import tensors_of
from conformance.sweep.entry import precisely

# How models see is told as transformers 5 has it (placeholder tokens for each patch); before, they are not fed images.
SEES = pytest.mark.skipif(Version(transformers.__version__).major < 5, reason="images are fed as transformers 5 has it")

ENTRIES = {entry.name: entry for entry in entries()}
HANDFUL = (
    "every:bert",
    "every:llama+head",
    "every:t5+head",
    "every:mixtral",
    "every:swin+head",
    "every:detr",
    "every:clip",
    pytest.param("every:llava+head", marks=SEES),
    pytest.param("every:qwen2_vl+head", marks=SEES),
    "every:whisper+head",
    "every:wav2vec2",
    "every:patchtst",
)


@pytest.fixture(scope="module")
def made():
    models = {}

    def make(name):
        if name not in ENTRIES:
            pytest.skip(f"the installed transformers has no {name}")
        if name not in models:
            with precisely(torch.float64):
                models[name] = build.build(ENTRIES[name])
        return models[name]

    return make


def drawn(made, name, samples=3, length=6, **how):
    with precisely(torch.float64):
        return build.inputs(ENTRIES[name], made(name), samples, length, 1, **how)


def run(model, batch):
    torch.manual_seed(0)
    with precisely(torch.float64), torch.no_grad():
        return tensors_of(model(**batch.arguments))


@pytest.mark.parametrize("name", HANDFUL)
def test_builds_and_runs_in_float64(made, name):
    model = made(name)
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    outputs = run(model, drawn(made, name))
    floats = [value for value in outputs.values() if value.is_floating_point()]
    assert floats
    assert all(value.dtype is torch.float64 for value in floats)
    assert all(torch.isfinite(value).any() for value in floats)


@pytest.mark.parametrize("name", HANDFUL)
def test_rows_are_told_apart_and_are_themselves_alone(made, name):
    batch = drawn(made, name)
    whole, alone = run(made(name), batch), run(made(name), batch.of([1]))
    rows = [path for path, value in whole.items() if value.shape[0] == 3 and value.shape[1:] == alone[path].shape[1:]]
    path = next(path for path in rows if whole[path].is_floating_point())
    assert relative_error(whole[path][1:2], alone[path]) < 1e-9
    assert relative_error(whole[path][0], whole[path][1]) > 1e-6


@SEES
@pytest.mark.parametrize("name", ["every:llava+head", "every:qwen2_vl+head", "every:clip"])
def test_seeing_models_are_shown_images(made, name):
    batch = drawn(made, name)
    assert "pixel_values" in batch.tensors
    assert "input_ids" in batch.tensors
    assert unfed(made(name), batch) == []
    before = run(made(name), batch)
    batch.tensors["pixel_values"] = batch.tensors["pixel_values"] + 1.0
    assert any(relative_error(value, before[path]) > 1e-6 for path, value in run(made(name), batch).items())


@SEES
def test_uneven_images_have_samples_of_different_sizes(made):
    batch = drawn(made, "every:qwen2_vl+head", uneven=True)
    assert len(set(batch.packed["pixel_values"])) > 1
    assert batch.packed["image_grid_thw"] == [1, 2, 1]
    run(made("every:qwen2_vl+head"), batch)


@SEES
def test_what_was_not_fed_is_said(made):
    batch = drawn(made, "every:llava+head")
    del batch.tensors["pixel_values"]
    assert unfed(made("every:llava+head"), batch) == ["images or videos"]


def test_same_seed_same_model_and_inputs(made):
    name = "every:bert"
    with precisely(torch.float64):
        again = build.build(ENTRIES[name])
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), made(name).parameters()))
    assert torch.equal(drawn(made, name).tensors["input_ids"], drawn(made, name).tensors["input_ids"])


def test_building_draws_nothing_from_the_callers_generator(made):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build.build(ENTRIES["every:bert"])
    assert torch.equal(torch.rand(1), expected)


def test_a_type_without_a_class_cannot_be_built():
    entry = next(entry for entry in ENTRIES.values() if not entry.architecture)
    with pytest.raises(build.CannotBuild, match="configuration only"):
        build.build(entry)


@pytest.mark.skipif(
    Version(torch.__version__).major < 2, reason="parameters are counted ahead on torch 2's meta device"
)
def test_a_model_that_is_too_large_is_not_built(monkeypatch):
    monkeypatch.setattr(build, "MOST_PARAMETERS", 1000)
    with pytest.raises(build.CannotBuild, match="M parameters are more than"):
        build.build(ENTRIES["every:bert"])


def test_an_argument_that_nothing_draws_is_named(made, monkeypatch):
    from conformance.models.every import others

    monkeypatch.setattr(others, "DRAWERS", {})
    with pytest.raises(LookupError, match="past_values"):
        drawn(made, "every:patchtst")
