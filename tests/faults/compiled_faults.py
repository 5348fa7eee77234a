"""Defects in what lets a mixed call go through the graphs of a compiled model."""

import contextlib

from shim.routing import graph_replay
from tests.faults.planted import SPLIT, fault

CHECK = "a_compiled_model_gives_each_row_its_own_run_by_one_graph"


@fault("integers", CHECK)
def the_graph_of_a_plain_call_answers(patch):
    patch.setattr(graph_replay, "MixedCall", contextlib.nullcontext)
    patch.setattr(graph_replay.UnorderedReplay, "finish", lambda replay: None)


@fault("integers", CHECK)
def every_list_of_names_has_a_graph_of_its_own(patch):
    mode = graph_replay.MixedCall
    patch.setattr(graph_replay, "MixedCall", lambda: type("OneCall", (mode,), {})())


@fault(SPLIT, "llama", "a_generate_that_compiles_itself_gives_the_rows_own_tokens")
def generate_decodes_by_the_graph_of_plain_calls(patch):
    from transformers import PreTrainedModel

    patch.setattr(PreTrainedModel, "get_compiled_call", PreTrainedModel.get_compiled_call.__wrapped__)
