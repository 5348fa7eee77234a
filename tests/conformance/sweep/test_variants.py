from conformance.models.every.sizes import HEADS
from conformance.sweep.stages import STAGES
from conformance.sweep.variants import AGAIN, FIRST, HEADED, LARGER, NAMES, SQUARE, UNEQUAL, drawings

MODELS = [f"every:model-{number}" for number in range(200)]


def test_every_model_is_drawn_at_several_sizes_and_then_at_the_first_again():
    for model in MODELS:
        drawn = list(drawings("linear_layers", model, packed=False))
        assert drawn[0] is FIRST
        assert drawn[-1] is AGAIN
        assert len(drawn) >= 4
        assert (AGAIN.samples, AGAIN.length) == (FIRST.samples, FIRST.length)


def test_some_models_make_every_call_and_together_all_calls_are_made():
    thorough = [model for model in MODELS if HEADED in drawings("linear_layers", model, packed=False)]
    assert len(MODELS) / 8 < len(thorough) < len(MODELS) / 2
    calls = {
        call
        for model in MODELS
        if model not in thorough
        for drawing in drawings("linear_layers", model, packed=False)
        if drawing.name == HEADED.name
        for call in drawing.calls
    }
    assert calls == set(HEADED.calls)


def test_packed_models_always_see_unequal_images():
    assert all(UNEQUAL in drawings("linear_layers", model, packed=True) for model in MODELS)
    assert not any(UNEQUAL in drawings("linear_layers", model, packed=False) for model in MODELS)


def test_sizes_are_those_that_invite_guesses():
    assert SQUARE.samples == SQUARE.length
    assert HEADED.length == HEADS
    assert {len(call) for call in HEADED.calls} == {1, 2, 4, 5}
    assert LARGER.length != FIRST.length
    assert FIRST.calls[1] != tuple(range(3))


def test_calls_mix_adapters_and_stay_inside_their_batch():
    for drawing in (FIRST, SQUARE, HEADED, LARGER, UNEQUAL, AGAIN):
        for call in drawing.calls:
            assert len(set(call)) == len(call)
            assert max(call) < drawing.samples <= len(NAMES)
            assert len(call) == 1 or len({NAMES[sample] for sample in call}) > 1


def test_other_stages_are_short():
    drawn = {stage: list(drawings(stage, "every:bert", packed=False)) for stage in list(STAGES)[1:]}
    assert drawn.pop("generate") == [FIRST]
    assert all(drawings_of == [FIRST, SQUARE] for drawings_of in drawn.values())
