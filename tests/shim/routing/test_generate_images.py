"""`generate` with images: whose the patches are, and one pass, the encoder's layers too."""

from contextlib import nullcontext
from inspect import signature

import peft
import pytest
import torch
import transformers
from packaging.version import Version

import shim

pytestmark = pytest.mark.skipif(Version(transformers.__version__) < Version("5"), reason="configured as of 5")

GRIDS = {
    "of other sizes": ((1, 4, 4), (1, 4, 8), (1, 8, 4)),
    "of one size": ((1, 4, 4), (1, 4, 4), (1, 4, 4)),
    "as many rows as samples": ((1, 2, 2), (1, 2, 2), (1, 2, 2)),
}
NEW_TOKENS = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
TEXT = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
NAMES = ["ann", "__base__", "ben"]


@pytest.fixture
def vision_language(installed_shim):
    """A Qwen2-VL with adapters `ann` and `ben`; `targets` are where."""
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {**TEXT, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "rope_parameters": rope}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 2, "mlp_ratio": 1}
    vision.update(spatial_merge_size=2, temporal_patch_size=1, in_channels=3)
    tokens = {"vision_start_token_id": 36, "vision_end_token_id": 37, "image_token_id": 38, "video_token_id": 35}

    def made(*targets):
        torch.manual_seed(0)
        settings = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
        return with_adapters(transformers.Qwen2VLForConditionalGeneration(settings), targets)

    return made


def with_adapters(base, targets):
    config = peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name="ann")
    model.add_adapter("ben", config)
    for name, weight in model.named_parameters():
        weight.data.normal_(std=1.0 if "lora" in name else 0.3)
    return model.double().eval()


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


def expect_own_tokens(model, inputs, alone, **more):
    """Check each row of a mixed generate against that of `alone(at)`, its inputs by themselves."""
    with torch.no_grad():
        mixed = model.generate(**inputs, **NEW_TOKENS, adapter_names=NAMES, **more)
    for at, name in enumerate(NAMES):
        own = {other: tokens_under(model, other, alone(at)) for other in NAMES}
        assert mixed[at].tolist() == own[name]
        assert all(own[name] != own[other] for other in NAMES if other != name), "the adapters are too alike"


def tokens_under(model, name, inputs):
    """Return what one sample generates under one adapter, by set_adapter and without names."""
    model.set_adapter("ann" if name == "__base__" else name)
    with torch.no_grad(), model.disable_adapter() if name == "__base__" else nullcontext():
        return model.generate(**inputs, **NEW_TOKENS)[0].tolist()


def sample(inputs, at, patches, grids=None):
    """Return the inputs of the sample `at`, which has so many of the patches, and these of the grids."""
    own = {key: value[at : at + 1] for key, value in inputs.items()}
    own["pixel_values"] = inputs["pixel_values"].split(patches)[at]
    return own if grids is None else {**own, "image_grid_thw": inputs["image_grid_thw"].split(grids)[at]}


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("says_owners", [False, True], ids=["found", "said"])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("q_proj", "qkv")], ids=["text", "text and images"])
def test_patches_are_their_samples(vision_language, targets, says_owners, grids):
    shim.install(fallback="refuse")
    model, inputs = vision_language(*targets), with_images(grids)
    patches = [height * width for _, height, width in grids]
    said = {"pixel_values": [at for at, count in enumerate(patches) for _ in range(count)]} if says_owners else None
    expect_own_tokens(model, inputs, lambda at: sample(inputs, at, patches), owners=said)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("q_proj", "qkv")], ids=["text", "text and images"])
def test_several_images_of_one_sample_need_owners(vision_language, targets):
    model, inputs = vision_language(*targets), with_images(((1, 4, 4), (1, 4, 8), (1, 8, 4)))
    inputs["input_ids"][0, 7:13] = torch.tensor([36, 38, 38, 38, 38, 37])  # a second image in the first sample
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == 38).int()
    inputs["image_grid_thw"] = torch.tensor([[1, 4, 4], [1, 4, 4], [1, 4, 8], [1, 8, 4]])
    inputs["pixel_values"] = torch.cat([inputs["pixel_values"][16:32], inputs["pixel_values"]])
    with pytest.raises(shim.RefusedError, match=r"image_grid_thw.*owners=\{…\}"):  # Python counts images by it
        model.generate(**inputs, **NEW_TOKENS, adapter_names=NAMES)
    said = {"image_grid_thw": [0, 0, 1, 2]}
    expect_own_tokens(model, inputs, lambda at: sample(inputs, at, [32, 32, 32], [2, 1, 1]), owners=said)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("fc1", "fc2"), ("linear_1", "q_proj")])
def test_an_encoder_that_generate_runs_goes_in_one_pass(installed_shim, targets, beams):
    shim.install(fallback="refuse")
    torch.manual_seed(0)
    text = transformers.LlamaConfig(**TEXT, num_attention_heads=2, num_key_value_heads=2, pad_token_id=0)
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**sizes, image_size=4, patch_size=2)
    settings = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=38, image_seq_length=4
    )
    model = with_adapters(transformers.LlavaForConditionalGeneration(settings), targets)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 34, (3, 9), generator=generator)
    tokens[:, 2:6] = 38  # an image of four patches
    images = torch.randn(3, 3, 4, 4, generator=generator, dtype=torch.float64)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": images}
    inputs["num_beams"] = beams

    def alone(at):
        return {key: value[at : at + 1] if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}

    expect_own_tokens(model, inputs, alone)


def test_the_next_calls_images_are_of_other_samples(vision_language):
    """The shapes are those of the call before, and whose the patches are is not."""
    shim.install(fallback="refuse")
    model = vision_language("q_proj", "qkv")
    for grids in (
        ((1, 4, 8), (1, 4, 4), (1, 4, 4)),
        ((1, 4, 4), (1, 4, 8), (1, 4, 4)),
        ((1, 4, 8), (1, 4, 4), (1, 4, 4)),
    ):
        inputs, patches = with_images(grids), [height * width for _, height, width in grids]
        expect_own_tokens(model, inputs, lambda at, i=inputs, p=patches: sample(i, at, p))


def idefics(cls, images):
    """Return a model that leaves out images of zeros, and inputs of three samples with so many images each."""
    torch.manual_seed(0)
    text = transformers.LlamaConfig(**TEXT, num_attention_heads=2, num_key_value_heads=2, pad_token_id=0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision.update(image_size=8, patch_size=2)
    settings = transformers.Idefics3Config(
        vision_config=vision, text_config=text, image_token_id=38, scale_factor=2, pad_token_id=0
    )
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 34, (3, 12), generator=generator)
    pixels = torch.zeros(3, max(images), 3, 8, 8, dtype=torch.float64)
    for row, (line, count) in enumerate(zip(tokens, images)):
        line[2 : 2 + 4 * count] = 38  # four tokens for each image
        pixels[row, :count] = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": pixels}
    return with_adapters(cls(settings), ("q_proj", "fc1", "proj")), inputs


@pytest.mark.parametrize("images", [[1, 1, 1], [2, 1, 1], [1, 2, 2]], ids=str)
def test_an_encoder_that_is_given_what_is_no_padding_goes_in_one_pass(installed_shim, images):
    """Values decide which rows Idefics3's encoder gets, in each call anew."""
    shim.install(fallback="refuse")
    model, inputs = idefics(transformers.Idefics3ForConditionalGeneration, images)

    def alone(at):
        own = {key: value[at : at + 1] for key, value in inputs.items()}
        return {**own, "pixel_values": own["pixel_values"][:, : images[at]]}

    expect_own_tokens(model, inputs, alone)


@pytest.mark.parametrize("tokens", [0, 4], ids=["in the trial, too", "and not in the trial"])
def test_an_encoder_whose_rows_values_placed_runs_once(installed_shim, tokens):
    """What it is given at another time may be of other samples, as many."""
    if "mm_encoder_outputs" not in signature(transformers.Idefics3ForConditionalGeneration.forward).parameters:
        pytest.skip("the model encodes images inside")  # Breakpoint: huggingface/transformers#45783

    class Twice(transformers.Idefics3ForConditionalGeneration):
        def generate(self, pixel_values, **kwargs):
            if kwargs["max_new_tokens"] > tokens:
                self.model.get_image_features(pixel_values.flip(0))
            return super().generate(pixel_values=pixel_values, **kwargs)

    shim.install(fallback="refuse")
    model, inputs = idefics(Twice, [2, 1, 1])
    with pytest.raises(shim.RefusedError, match="again with 4 rows, whose samples are unknown then"):
        model.generate(**inputs, **NEW_TOKENS, adapter_names=NAMES)


def test_a_generate_of_the_models_own_that_encodes_images_goes_in_one_pass(installed_shim):
    shim.install(fallback="refuse")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **sizes,
        "vocab_size": 40,
        "encoder_hidden_size": 32,
        "bos_token_id": 36,
        "sep_token_id": 37,
        "pad_token_id": 0,
    }
    settings = transformers.BlipConfig(vision_config={**sizes, "image_size": 4, "patch_size": 2}, text_config=text)
    model = with_adapters(transformers.BlipForConditionalGeneration(settings), ("qkv", "query", "value"))
    images = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expect_own_tokens(model, {"pixel_values": images}, lambda at: {"pixel_values": images[at : at + 1]})
