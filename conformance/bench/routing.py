"""What routing costs: the trace of a new structure, and what every call and every layer call pays afterwards."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, Iterator, List

from conformance.bench.timing import Timing, interleaved
from conformance.report.environment import command, versions
from conformance.shim_switch import RoutingProbe, forget_plans, shim_installed, shim_uninstalled

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LOADED = (2, 8, 32)


@dataclass(frozen=True)
class Row:
    """One measurement. value: in `unit`; target: the most that the project allows itself, 0 for none."""

    name: str
    value: float
    unit: str
    target: float = 0.0
    spread: str = ""


def measure(*, layers: int = 8, width: int = 512, seconds: float = 3.0) -> List[Row]:
    """Return what routing costs on a Llama of `layers` layers of `width`, one thread, random weights."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            rows = [*_traces(layers, width, seconds), *_layer_calls(layers, width), *_fixed(layers, width)]
            return [*rows, *_calls(layers, width, seconds)]
    finally:
        torch.set_num_threads(threads)


def main(options: argparse.Namespace) -> int:
    """Print the measurements as a table, and write them as JSON where asked; exit 0."""
    rows = measure(seconds=options.seconds)
    width = max(len(row.name) for row in rows)
    for row in rows:
        target = f"  (at most {row.target:g})" if row.target else ""
        print(f"{row.name:<{width}}  {row.value:8.2f} {row.unit}{target}{'  ' + row.spread if row.spread else ''}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            about = {"command": command(), "packages": versions()}
            json.dump({**about, "rows": [asdict(row) for row in rows]}, file, indent=1)
    return 0


def _model(layers: int, width: int, adapters: int) -> Any:
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=width * 43 // 16,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=1000,
    )
    lora = peft.LoraConfig(r=8, target_modules=TARGETS, init_lora_weights=False)
    model = peft.get_peft_model(LlamaForCausalLM(config).eval(), lora, adapter_name="a0")
    for index in range(1, adapters):
        model.add_adapter(f"a{index}", lora)
    return model.eval()


def _inputs(samples: int, length: int) -> Dict[str, Any]:
    import torch

    return {"input_ids": torch.randint(0, 1000, (samples, length), generator=torch.Generator().manual_seed(0))}


def _names(samples: int, distinct: int) -> List[str]:
    return [f"a{index % distinct}" for index in range(samples)]


def _traces(layers: int, width: int, seconds: float) -> Iterator[Row]:
    model = _model(layers, width, 2)
    for length in (16, 128):
        inputs, names = _inputs(8, length), _names(8, 2)

        def mixed() -> None:
            model(**inputs, adapter_names=names)  # noqa: B023

        def traced() -> None:
            forget_plans(model)
            mixed()

        with shim_installed(True):
            found = interleaved({"traced": traced, "mixed": mixed, "plain": lambda: model(**inputs)}, seconds=seconds)  # noqa: B023
        extra = found["traced"].median - found["mixed"].median
        yield Row(f"trace, 8 x {length} tokens", extra / found["plain"].median, "x a forward", 6.0, _spread(found))


def _layer_calls(layers: int, width: int) -> Iterator[Row]:
    """Measure what a replayed layer call pays before its rows are run."""
    probe = RoutingProbe(_model(layers, width, 2), _inputs(8, 16), _names(8, 2))
    timing = interleaved({"replay": probe.look_up_layer_calls}, seconds=1.0)["replay"]
    yield Row("plan lookup and rows, per layer call", timing.median / probe.layer_calls * 1e6, "us", 5.0)


def _fixed(layers: int, width: int) -> Iterator[Row]:
    probes = {
        f"fixed cost per call, {loaded} adapters loaded": RoutingProbe(
            _model(layers, width, loaded), _inputs(8, 16), _names(8, 2)
        )
        for loaded in LOADED
    }
    found = interleaved({name: probe.prepare_call for name, probe in probes.items()}, seconds=2.0)
    for name, timing in found.items():
        yield Row(name, timing.median * 1e3, "ms")


def _calls(layers: int, width: int, seconds: float) -> Iterator[Row]:
    model = _model(layers, width, 8)
    for length in (1, 16, 128):
        for distinct in (2, 8):
            inputs, names = _inputs(8, length), _names(8, distinct)

            def mixed() -> None:
                model(**inputs, adapter_names=names)  # noqa: B023

            with shim_installed(True):
                label = f"8 x {length} tokens, {distinct} adapters: beside PEFT"
                raised = _raised_by_upstream(mixed)
                if raised:
                    found = interleaved({"shim": mixed}, seconds=seconds)
                    yield Row(label, found["shim"].median * 1e3, "ms", 0.0, f"PEFT itself raises {raised} here")
                    continue
                ways = {"shim": mixed, "PEFT": mixed, "shim again": mixed}
                found = interleaved(ways, seconds=seconds, within={"PEFT": shim_uninstalled})
            ratio = found["shim"].median / found["PEFT"].median
            same = found["shim again"].median / found["shim"].median
            yield Row(label, ratio, "x", 0.0, f"A/A {same:.2f}, {_spread(found)}")


def _raised_by_upstream(mixed: Callable[[], object]) -> str:
    """Return the class of what the call raises without the shim; nothing where it runs."""
    with shim_uninstalled():
        try:
            mixed()
        except Exception as error:
            return type(error).__name__
    return ""


def _spread(found: Dict[str, Timing]) -> str:
    return ", ".join(
        f"{name} {1e3 * t.median:.1f} ({1e3 * t.low:.1f}-{1e3 * t.high:.1f}) ms" for name, t in found.items()
    )
