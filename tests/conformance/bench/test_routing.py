"""`bench routing` on a model too small to say anything: that it measures what it says, not how much."""

from conformance.bench import llama, routing
from conformance.shim_switch import RoutingProbe


def test_every_question_has_a_row_and_a_unit():
    rows = routing.measure(layers=1, width=16, seconds=0)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for part in ("trace, 8 x 16", "per layer call", "32 adapters loaded", "8 x 128 tokens, 8 adapters: beside PEFT"):
        assert any(part in name for name in names), part
    assert all(row.value > 0 and row.unit for row in rows)


def test_the_probe_counts_every_layer_call():
    model = llama.build(1, 16, 2)
    probe = RoutingProbe(model, llama.inputs(2, 3), ["a0", "a1"])
    assert probe.layer_calls == len(llama.TARGETS)
    probe.look_up_layer_calls()
    probe.prepare_call()
