"""Judge one method: two adapters of it on a small Llama, each row of a mixed batch against that row alone."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from dataclasses import replace
from typing import Any, Callable, Iterator, List, Tuple

from conformance.compare import Tier
from conformance.methods.kinds import MODELS, Method
from conformance.methods.quantised import QUANTISERS, Quantiser
from conformance.models.every.batch import Batch
from conformance.sweep.adapted import ADAPTERS, CannotAdapt
from conformance.sweep.entry import precisely
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.judge import FLOAT32, FLOAT64, judge_adapted
from conformance.sweep.stages import METHOD_STAGE
from conformance.sweep.variants import AGAIN, ANN, BEN, FIRST, HEADED, SQUARE, Drawing
from conformance.verdict import Verdict

VOCABULARY = 64
STRENGTH = 0.3


def sweep(method: Method, say: Callable[[Verdict], None]) -> None:
    """Say the verdict of `method`; raise nothing that PEFT may raise."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judgement = _judge(method)
    say(judgement.verdict(method.name, METHOD_STAGE, time.perf_counter() - started, method.clauses))


def _judge(method: Method) -> Judgement:
    """Return what the first precision shows in which PEFT itself runs the method."""
    import torch

    reasons: List[str] = []
    tiers: Tuple[Tuple[Any, Tier], ...] = ((torch.float64, FLOAT64), (torch.float32, FLOAT32))
    for dtype, tier in tiers:
        with precisely(dtype):
            try:
                return judge_adapted(adapted(method), _batches(method), tier)
            except CannotAdapt as error:
                reasons.append(str(error))
    return Judgement(Finding.CANNOT_BUILD, reasons[-1])


def adapted(method: Method) -> Any:
    """Return a small Llama with the two adapters, unlike each other, in the default dtype.

    Raises:
        CannotAdapt: PEFT refuses.
    """
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    try:
        first, *others = ADAPTERS
        settings = {"vocab_size": VOCABULARY, "use_cache": False, **sizes, **MODELS.get(method.variant, {})}
        base = LlamaForCausalLM(LlamaConfig(**settings))
        if method.quantiser:
            _quantise(base, QUANTISERS[method.quantiser])
        model = peft.get_peft_model(base, method.configuration(), adapter_name=first)
        for name in others:
            model.add_adapter(name, method.configuration())
    except CannotAdapt:
        raise
    except Exception as error:
        raise CannotAdapt(f"PEFT refuses two of them: {type(error).__name__}: {error}") from error
    for path, parameter in model.named_parameters():
        if parameter.is_floating_point() and set(ADAPTERS) & set(path.split(".")):
            parameter.data = parameter.data + STRENGTH * torch.randn_like(parameter)
    model = model if method.quantiser else model.to(torch.get_default_dtype())
    return model.eval().requires_grad_(False)


def _quantise(base: Any, quantiser: Quantiser) -> None:
    """Quantise the linear layers of `base`.

    Raises:
        CannotAdapt: the package is not there, or cannot do it on this machine or in this precision.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some announce themselves
            quantiser.quantise(base)
    except ImportError as error:
        raise CannotAdapt(f"{quantiser.package} is not installed: {error}") from error
    except Exception as error:
        raise CannotAdapt(f"{quantiser.package} cannot quantise it: {type(error).__name__}: {error}") from error


def _batches(method: Method) -> Iterator[Tuple[Drawing, Batch]]:
    """Yield the batches; those of prompt learning have no rows of the base, which are shorter by the virtual tokens."""
    import torch

    has_virtual_tokens = method.configuration().is_prompt_learning
    for drawing in (FIRST, SQUARE, HEADED, AGAIN):
        if has_virtual_tokens:
            drawing = replace(drawing, names=(ANN, BEN, ANN, BEN, ANN))
        generator = torch.Generator().manual_seed(drawing.samples * drawing.length)
        ids = torch.randint(3, VOCABULARY - 4, (drawing.samples, drawing.length), generator=generator)
        if method.variant == "alora":
            ids[:, drawing.length // 2] = VOCABULARY - 4  # the token that invokes the adapter
        tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if method.peft_type in ("MULTITASK_PROMPT_TUNING", "POLY"):
            tensors["task_ids"] = torch.arange(drawing.samples) % 2
        yield drawing, Batch(drawing.samples, tensors)
