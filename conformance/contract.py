"""The contract of a mixed-adapter batch, clause by clause: what the checks prove, in the words that they prove.

"Alone" means: the same row, same padding, run under `set_adapter(name)`, or with adapters disabled for `__base__`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class Clause:
    """One promise.

    also: what else shows it, or what does where no check is registered for it: a sentence of Markdown, from docs/.
    """

    id: str
    text: str
    also: str = ""


@dataclass(frozen=True)
class Chapter:
    """The clauses whose ids begin with the same letter."""

    title: str
    clauses: Tuple[Clause, ...]


CONTRACT: Tuple[Chapter, ...] = (
    Chapter(
        "Rows",
        (
            Clause(
                "R1",
                "Each output row equals that row alone under its adapter: logits, hidden states, every tensor output "
                "that has rows.",
            ),
            Clause("R2", "Reordering the rows reorders the outputs, and nothing else."),
            Clause("R3", "A `__base__` row equals the base model."),
            Clause(
                "R4",
                "What the other rows and other adapters hold, `inf` and `nan` weights included, does not change a row.",
            ),
            Clause("R5", "One sample under several adapters in one batch gives each adapter's own answer."),
            Clause(
                "R6",
                "Any number of distinct adapters, any ranks, any target modules, adapters that do not touch a layer, a "
                "batch of one, a batch under one adapter.",
            ),
            Clause(
                "R7",
                "It holds on every model type of transformers whose own batch is consistent, whatever the model does "
                "to its batch dimension: folded, tiled, time-major, packed, token-dispatched, one encoder per "
                "modality.",
                "Every model type is held against it by `run --models all`: [models](models.md).",
            ),
            Clause(
                "R8",
                "A layer computed once for the whole batch, or a layer that mixes samples, is refused by name (or the "
                "batch is split), never guessed.",
            ),
        ),
    ),
    Chapter(
        "Refusals",
        (
            Clause("F1", "Unknown or deleted adapter: an error that names it and lists those loaded."),
            Clause("F2", "Wrong number of names: an error with both numbers."),
            Clause(
                "F3",
                "A row that cannot be traced: an error naming layer, shape, reason and way out.",
                "`tests/shim/routing/test_explain.py` asks for the operation, the shape and the reason.",
            ),
            Clause("F4", "Merged adapters, and anything else not supported: a clear error."),
            Clause("F5", "Nothing is silently ignored: no layer type or method drops the names."),
        ),
    ),
    Chapter(
        "State",
        (
            Clause(
                "S1",
                "A call that fails, anywhere, leaves no trace: hooks, active adapters, requires_grad, training mode, "
                "weights, RNG, caches.",
            ),
            Clause("S2", "A call that succeeds leaves none either."),
            Clause("S3", "Threads with different names on one model do not affect each other."),
            Clause(
                "S4",
                "Any sequence of load, add, delete, set, disable, enable, merge, unmerge, rename, train, eval, save, "
                "reload, mixed call and failing call agrees with a plain model of it.",
            ),
            Clause(
                "S5",
                "What is saved and loaded again gives the same outputs.",
            ),
            Clause(
                "S6",
                "Installing twice is installing once; uninstalling restores the very objects; on versions without a "
                "defect the upstream object stays.",
            ),
            Clause(
                "S7",
                "Pickle, deepcopy and state_dict work before, during and after.",
                "`tests/shim/test_selection.py` reads with the shim what was pickled with it, and without it.",
            ),
        ),
    ),
    Chapter(
        "Heads and saved modules",
        (
            Clause(
                "H1",
                "Each row goes through its own adapter's saved module, of any module type (Linear, a classification "
                "head, a pooler, a norm, an embedding).",
            ),
            Clause("H2", "A row whose adapter saves nothing there goes through the base's."),
            Clause(
                "H3",
                "Adapters load in any order with any `modules_to_save`, and each stays right after switching, "
                "disabling, deleting.",
            ),
            Clause(
                "H4",
                "Heads of different output sizes: a clear error, or outputs per row where the caller asks for them.",
            ),
            Clause(
                "H5",
                "Trainable tokens and tied weights likewise.",
                "Trainable tokens beside LoRA are a row of [methods](methods.md).",
            ),
        ),
    ),
    Chapter(
        "Generation",
        (
            Clause(
                "G1",
                "A token sequence equals the row's own: greedy.",
                "Every model type that generates is held against it by `run --models all`: [models](models.md).",
            ),
            Clause("G2", "Sampling with per-row reproducibility."),
            Clause("G3", "Beams, however given: keyword, `generation_config`, the model's own."),
            Clause("G4", "`num_return_sequences`."),
            Clause("G5", "Encoder-decoder."),
            Clause("G6", "Classifier-free guidance."),
            Clause("G7", "Prompt-lookup and assisted decoding."),
            Clause(
                "G8",
                "Static, dynamic and quantised caches; streaming; `inputs_embeds`; left padding.",
                "A streamer of several rows is [refused](limits.md#what-is-refused-and-why), and so is a cache of the "
                "caller's that quantises: `tests/shim/routing/test_generation.py`.",
            ),
        ),
    ),
    Chapter(
        "Layers and methods",
        (
            Clause(
                "L1",
                "LoRA on Linear, Embedding, Conv1d/2d/3d, transformers' Conv1D, MultiheadAttention, fused experts "
                "(`target_parameters`).",
                "`run --models all` adapts linear layers, then embeddings and convolutions, then fused experts: "
                "[models](models.md). `tests/shim/routing/test_attention.py` has multi-head attention, each row beside "
                "PEFT's own layer.",
            ),
            Clause(
                "L2",
                "Variants: rsLoRA, DoRA, aLoRA, bias, rank and alpha patterns, the rest that the installed peft has.",
                "`run --models methods` has LoRA's variants: [methods](methods.md).",
            ),
            Clause(
                "L3",
                "Quantised bases where the package is installed.",
                "`run --models methods` has LoRA on each quantiser that runs on a CPU: [methods](methods.md); those "
                "that quantise a row by the whole batch are [refused](limits.md#quantised-bases).",
            ),
            Clause(
                "L4",
                "Every other tuner of the installed peft, alone and mixed in one batch.",
                "`run --models methods` has every method: [methods](methods.md).",
            ),
            Clause(
                "L5",
                "transformers' own adapter integration (`model.add_adapter`, `load_adapter`, "
                "`_hf_peft_config_loaded`, `active_adapters`).",
            ),
        ),
    ),
    Chapter(
        "Algebra",
        (
            Clause("A1", "`merge_adapter` gives the unmerged outputs, and unmerging restores."),
            Clause("A2", "`add_weighted_adapter` equals the weighted sum of its parts."),
            Clause("A3", "The base term Wx and the adapter term s·B(Ax) can be had apart, and add up."),
            Clause(
                "A4",
                "Gradients of a mixed batch equal the sum of per-adapter gradients, each adapter's from its own rows "
                "only (training mode).",
            ),
        ),
    ),
    Chapter(
        "Engines",
        (
            Clause("E1", "torch.compile, fullgraph, no recompilation per list of names."),
            Clause(
                "E2",
                "DDP, FSDP2 and tensor parallel through torch.distributed.",
                "`tests/shim/engines/test_processes.py` has tensor parallelism, the gradients of both others, and that "
                "whatever would let a rank wait for ever is refused on all. On gloo; NCCL has not been tried.",
            ),
            Clause(
                "E3",
                "accelerate's device_map and offload.",
                "`tests/shim/engines/test_offload.py` has checkpoints that are dispatched as they are loaded, other "
                "layers and `generate`.",
            ),
            Clause("E4", "float64, float32, bfloat16, float16, autocast."),
            Clause(
                "E5",
                "CUDA and CUDA graphs.",
                "A mixed call under capture is refused: `tests/shim/engines/test_recording.py`.",
            ),
            Clause("E6", "Gradient checkpointing."),
        ),
    ),
    Chapter(
        "Cost",
        (
            Clause(
                "C1",
                "Time against the number of distinct adapters, of loaded adapters, rank, batch, tokens.",
                "Measured by `bench adapters`: [kernels](kernels.md#the-benches).",
            ),
            Clause(
                "C2",
                "Memory against the number of adapters, beside one full model per task.",
                "Measured by `bench memory`: [kernels](kernels.md#the-benches).",
            ),
            Clause(
                "C3",
                "Base time and adapter time apart, merged against unmerged.",
                "Measured by `bench products`: [kernels](kernels.md#the-benches).",
            ),
        ),
    ),
)
"""The chapters in their order, and the clauses in theirs."""
