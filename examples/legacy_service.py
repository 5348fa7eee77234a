"""A service as it was written for PEFT 0.11: the requests of all customers answered in one batch, by beam search.

It knows nothing of the shim, and fails without it on every PEFT so far: on torch 1.13 with any batch, on later ones
because the beams come in a GenerationConfig. Unchanged, under the shim, it is right:

    echo '{"customer": "ann", "tokens": [5, 9, 12]}' | python -m shim run examples/legacy_service.py

One request a line on standard input, one answer a line on standard output. `--one-at-a-time` answers each request in
a batch of its own under `set_adapter`, which PEFT always did right.
"""

import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

CUSTOMERS = ("ann", "ben")
BEAMS = GenerationConfig(num_beams=3, max_new_tokens=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def load():
    """Return a tiny model of random weights with one LoRA for each customer, in the place of checkpoints."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(LlamaForCausalLM(config), lora, adapter_name=CUSTOMERS[0])
    for name in CUSTOMERS[1:]:
        model.add_adapter(name, lora)
    return model.eval()


def padded(requests):
    """Return the prompts as one batch, padded on the left."""
    longest = max(len(request["tokens"]) for request in requests)
    tokens = [[0] * (longest - len(request["tokens"])) + request["tokens"] for request in requests]
    ids = torch.tensor(tokens)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def answer(model, requests):
    """Answer all requests in one batch, each by its customer's adapter; those of nobody by the base model."""
    names = [request.get("customer", "__base__") for request in requests]
    with torch.no_grad():
        tokens = model.generate(**padded(requests), generation_config=BEAMS, adapter_names=names)
    return tokens.tolist()


def answer_one_at_a_time(model, requests):
    """Answer each request in a batch of its own."""
    answers = []
    for request in requests:
        with torch.no_grad():
            if "customer" in request:
                model.set_adapter(request["customer"])
                tokens = model.generate(**padded([request]), generation_config=BEAMS)
            else:
                with model.disable_adapter():
                    tokens = model.generate(**padded([request]), generation_config=BEAMS)
        answers.append(tokens[0].tolist())
    return answers


def without_padding(tokens):
    """Return the tokens between the padding that other requests decide."""
    return [token for token in tokens if token != 0]


def main():
    """Answer what comes on standard input."""
    requests = [json.loads(line) for line in sys.stdin]
    answers = (answer_one_at_a_time if "--one-at-a-time" in sys.argv else answer)(load(), requests)
    for request, tokens in zip(requests, answers):
        print(json.dumps({**request, "answer": without_padding(tokens)}))


if __name__ == "__main__":
    main()
