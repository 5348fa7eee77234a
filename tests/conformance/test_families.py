"""The suite on models of other libraries, where these are installed: `pip install -e '.[families]'`."""

import importlib.util

import pytest

from conformance import check_model
from conformance.verdict import Outcome

FAMILIES = {
    "diffusion_unet": ["diffusers"],
    "guided_diffusion": ["diffusers"],
    "timm_vit": ["timm", "torchvision"],
    "timm_swin": ["timm", "torchvision"],
    "sentence_encoder": ["sentence_transformers"],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_clause_holds(family):
    absent = [library for library in FAMILIES[family] if importlib.util.find_spec(library) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed: pip install -e '.[families]'")
    verdicts = check_model(f"tests.conformance.family_models:{family}", checks="quick", examples=2)
    shown = [verdict.check for verdict in verdicts if verdict.outcome is Outcome.PASS]
    assert "each_row_equals_its_own_run" in shown
    assert len(shown) > 20
