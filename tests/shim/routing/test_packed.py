"""Packed inputs of which nobody said whose rows they are: a forward of the base model shows it, or they are refused."""

from contextlib import nullcontext

import peft
import pytest
import torch
import transformers
from packaging.version import Version

import shim
from shim.routing.one_pass import NotByLayers
from tests.shim.routing.test_packed_split import NAMES, counts, expect_own_rows, images, images_in_text

GRIDS = {
    "of other sizes": ((1, 4, 4), (1, 4, 8), (1, 8, 4)),
    "of one size": ((1, 4, 4), (1, 4, 4), (1, 4, 4)),
    "as many rows as samples": ((1, 2, 2), (1, 2, 2), (1, 2, 2)),
}
NEW_TOKENS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@pytest.mark.usefixtures("split_only")
@pytest.mark.parametrize("each", [(2, 1, 3, 1), (2, 0, 1, 1), (1, 1, 1, 1), (4, 0, 0, 0)])
def test_a_split_finds_whose_the_rows_are(adapted, alone, each):
    model, inputs = adapted(images_in_text), {"input_ids": counts(*each), "pixel_values": images(sum(each))}
    expect_own_rows(model, alone, inputs, owners=None)


@pytest.mark.usefixtures("split_only")
def test_sizes_that_are_joined_with_every_image_claim_none(adapted, alone):
    def scaled_by_sizes(toy, input_ids, pixel_values, sizes):
        return images_in_text(toy, input_ids, pixel_values * (sizes.amax(0) / sizes.amax(0)))

    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7), "sizes": torch.ones(4, 4, dtype=torch.long)}
    expect_own_rows(adapted(scaled_by_sizes), alone, inputs, owners=None)


def test_a_split_that_finds_them_is_explained(adapted, monkeypatch):
    def unroutable(*_):
        raise NotByLayers("one pass is switched off")

    monkeypatch.setattr("shim.routing.explain.check_methods", unroutable)
    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7)}
    assert shim.explain(adapted(images_in_text), inputs, NAMES).route == "split"
    assert shim.explain(adapted(images_by_value), inputs, NAMES).route == "refuse"


def images_by_value(toy, input_ids, pixel_values):
    """Which images come into a sample is decided by values that Python reads."""
    if int(input_ids.sum()) != len(pixel_values):
        raise ValueError("image tokens and images do not match")
    total = sum(sum(row) for row in pixel_values.tolist())
    return toy.linear(input_ids + total * torch.ones(4, dtype=torch.float64))


def all_images_in_each(toy, input_ids, pixel_values):
    if int(input_ids.sum()) != len(pixel_values):
        raise ValueError("image tokens and images do not match")
    return toy.linear(input_ids + pixel_values.sum(0))


@pytest.mark.usefixtures("split_only")
@pytest.mark.parametrize("body", [images_by_value, all_images_in_each])
def test_rows_that_no_sample_claims_are_refused_with_the_way_out(adapted, body):
    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7)}
    with pytest.raises(shim.RefusedError, match=r"do not divide by sample.*pixel_values.*owners=\{…\}"):
        adapted(body)(**inputs, adapter_names=NAMES)


@pytest.fixture
def vision_language(installed_shim):
    """A Qwen2-VL with adapters `ann` and `ben`; `targets` are where."""
    if Version(transformers.__version__) < Version("5"):
        pytest.skip("configured as of transformers 5")
    text = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text.update(num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, rope_parameters=rope)
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 2, "mlp_ratio": 1}
    vision.update(spatial_merge_size=2, temporal_patch_size=1, in_channels=3)
    tokens = {"vision_start_token_id": 36, "vision_end_token_id": 37, "image_token_id": 38, "video_token_id": 35}

    def made(*targets):
        torch.manual_seed(0)
        settings = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
        config = peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)
        model = peft.get_peft_model(transformers.Qwen2VLForConditionalGeneration(settings), config, adapter_name="ann")
        model.add_adapter("ben", config)
        for name, weight in model.named_parameters():
            weight.data.normal_(std=1.0 if "lora" in name else 0.3)
        return model.double().eval()

    return made


def with_images(grids):
    """Return the inputs of one sample for each of `grids`, with that image in it."""
    generator = torch.Generator().manual_seed(1)
    tokens, pixels = torch.randint(3, 34, (len(grids), 24), generator=generator), []
    for row, (_, height, width) in zip(tokens, grids):
        end = 2 + height * width // 4
        row[1], row[2:end], row[end] = 36, 38, 37
        pixels.append(torch.randn(height * width, 12, generator=generator, dtype=torch.float64))
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "mm_token_type_ids": (tokens == 38).int(),
        "image_grid_thw": torch.tensor(grids),
        "pixel_values": torch.cat(pixels),
    }


def generated_alone(model, name, inputs, at, patches):
    """Return what the sample `at` generates under one adapter, by set_adapter and without names."""
    own = {key: value[at : at + 1] for key, value in inputs.items()}
    own["pixel_values"] = inputs["pixel_values"].split(patches)[at]
    model.set_adapter("ann" if name == "__base__" else name)
    with torch.no_grad(), model.disable_adapter() if name == "__base__" else nullcontext():
        return model.generate(**own, **NEW_TOKENS)[0].tolist()


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("q_proj", "qkv")])
def test_a_generate_finds_whose_the_patches_are(vision_language, targets, grids):
    model, inputs, names = vision_language(*targets), with_images(grids), ["ann", "__base__", "ben"]
    with torch.no_grad():
        mixed = model.generate(**inputs, **NEW_TOKENS, adapter_names=names)
    patches = [height * width for _, height, width in grids]
    for at, name in enumerate(names):
        own = {other: generated_alone(model, other, inputs, at, patches) for other in names}
        assert mixed[at].tolist() == own[name]
        assert all(own[name] != own[other] for other in names if other != name), "the adapters are too alike"


def test_a_generates_images_of_one_sample_need_owners_where_python_counts_them(vision_language):
    model, inputs = vision_language("q_proj"), with_images(((1, 4, 4), (1, 4, 8), (1, 8, 4)))
    inputs["input_ids"][0, 7:13] = torch.tensor([36, 38, 38, 38, 38, 37])  # a second image in the first sample
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == 38).int()
    inputs["image_grid_thw"] = torch.tensor([[1, 4, 4], [1, 4, 4], [1, 4, 8], [1, 8, 4]])
    inputs["pixel_values"] = torch.cat([inputs["pixel_values"][:16], inputs["pixel_values"]])
    names = ["ann", "__base__", "ben"]
    with pytest.raises(shim.RefusedError, match=r"image_grid_thw.*owners=\{…\}"):
        model.generate(**inputs, **NEW_TOKENS, adapter_names=names)
    owners = {"image_grid_thw": [0, 0, 1, 2]}
    with torch.no_grad():
        mixed = model.generate(**inputs, **NEW_TOKENS, owners=owners, adapter_names=names)
        grids, pixels = inputs.pop("image_grid_thw"), inputs.pop("pixel_values")
        own = {key: value[:1] for key, value in inputs.items()}
        model.set_adapter("ann")
        first = model.generate(**own, image_grid_thw=grids[:2], pixel_values=pixels[:32], **NEW_TOKENS)
    assert torch.equal(mixed[:1], first)
