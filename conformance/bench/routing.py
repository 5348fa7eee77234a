"""What routing costs: the trace of a new structure, and what every call and every layer call pays afterwards."""

from __future__ import annotations

from typing import Iterator, List

from conformance.bench import llama
from conformance.bench.measurements import Row, one_thread, spread
from conformance.bench.timing import interleaved
from conformance.shim_switch import RoutingProbe, forget_plans, raised_by_upstream, shim_installed, shim_uninstalled

LOADED = (2, 8, 32)


def measure(*, layers: int = 8, width: int = 512, seconds: float = 3.0) -> List[Row]:
    """Return what routing costs on a Llama of `layers` layers of `width`, one thread, random weights."""
    import torch

    with one_thread(), torch.no_grad():
        rows = [*_traces(layers, width, seconds), *_layer_calls(layers, width), *_fixed(layers, width)]
        return [*rows, *_calls(layers, width, seconds)]


def _traces(layers: int, width: int, seconds: float) -> Iterator[Row]:
    model = llama.build(layers, width, 2)
    for length in (16, 128):
        inputs, names = llama.inputs(8, length), llama.names(8, 2)

        def mixed() -> None:
            model(**inputs, adapter_names=names)  # noqa: B023

        def traced() -> None:
            forget_plans(model)
            mixed()

        with shim_installed(True):
            found = interleaved({"traced": traced, "mixed": mixed, "plain": lambda: model(**inputs)}, seconds=seconds)  # noqa: B023
        extra = found["traced"].median - found["mixed"].median
        yield Row(f"trace, 8 x {length} tokens", extra / found["plain"].median, "x a forward", 6.0, spread(found))


def _layer_calls(layers: int, width: int) -> Iterator[Row]:
    """Measure what a replayed layer call pays before its rows are run."""
    probe = RoutingProbe(llama.build(layers, width, 2), llama.inputs(8, 16), llama.names(8, 2))
    timing = interleaved({"replay": probe.look_up_layer_calls}, seconds=1.0)["replay"]
    yield Row("plan lookup and rows, per layer call", timing.median / probe.layer_calls * 1e6, "us", 5.0)


def _fixed(layers: int, width: int) -> Iterator[Row]:
    probes = {
        f"fixed cost per call, {loaded} adapters loaded": RoutingProbe(
            llama.build(layers, width, loaded), llama.inputs(8, 16), llama.names(8, 2)
        )
        for loaded in LOADED
    }
    found = interleaved({name: probe.prepare_call for name, probe in probes.items()}, seconds=2.0)
    for name, timing in found.items():
        yield Row(name, timing.median * 1e3, "ms")


def _calls(layers: int, width: int, seconds: float) -> Iterator[Row]:
    model = llama.build(layers, width, 8)
    for length in (1, 16, 128):
        for distinct in (2, 8):
            inputs, names = llama.inputs(8, length), llama.names(8, distinct)

            def mixed() -> None:
                model(**inputs, adapter_names=names)  # noqa: B023

            with shim_installed(True):
                label = f"8 x {length} tokens, {distinct} adapters: beside PEFT"
                raised = raised_by_upstream(mixed)
                if raised:
                    found = interleaved({"shim": mixed}, seconds=seconds)
                    yield Row(label, found["shim"].median * 1e3, "ms", 0.0, f"PEFT itself raises {raised} here")
                    continue
                ways = {"shim": mixed, "PEFT": mixed, "shim again": mixed}
                found = interleaved(ways, seconds=seconds, within={"PEFT": shim_uninstalled})
            ratio = found["shim"].median / found["PEFT"].median
            same = found["shim again"].median / found["shim"].median
            yield Row(label, ratio, "x", 0.0, f"A/A {same:.2f}, {spread(found)}")
