"""Models of other libraries as their users would hand them to the suite; each function imports its own library."""

import tempfile
from pathlib import Path

import torch
from torch import nn


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def diffusion_unet():
    import diffusers

    model = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=4,
    )  # fmt: skip
    text = noise(3, 5, 16)
    return model, {"sample": noise(3, 4, 8, 8), "timestep": torch.tensor([1, 5, 9]), "encoder_hidden_states": text}


class Guided(nn.Module):
    """A U-Net under classifier-free guidance: every sample without its text, then every sample with it."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, sample, timestep, text):
        texts = torch.cat([torch.zeros_like(text), text])
        both = self.unet(torch.cat([sample] * 2), torch.cat([timestep] * 2), texts).sample
        without, given = both.chunk(2)
        return without + 7.5 * (given - without)


def guided_diffusion():
    model, inputs = diffusion_unet()
    text = inputs.pop("encoder_hidden_states")
    return Guided(model), {**inputs, "text": text}


def timm_vit():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    return model, {"x": noise(3, 3, 32, 32)}


def timm_swin():
    import timm

    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(2, 2), num_heads=(2, 4), embed_dim=16
    )
    return model, {"x": noise(3, 3, 32, 32)}


class Sentences(nn.Module):
    """A sentence encoder, whose own forward takes a dictionary of features, with tensors by name."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids, attention_mask):
        return self.encoder({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]


def sentence_encoder():
    import sentence_transformers
    import transformers
    from sentence_transformers import models

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(45))]
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertModel(transformers.BertConfig(vocab_size=50, **sizes)).save_pretrained(folder)
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(words))
        transformers.BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
        parts = [models.Transformer(folder), models.Pooling(16)]
    ids = torch.arange(18).view(3, 6) % 40 + 5
    encoder = sentence_transformers.SentenceTransformer(modules=parts, device="cpu")
    return Sentences(encoder), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
