"""Defects in how a call goes over several processes, or on weights that are kept elsewhere."""

import conformance.processes
import shim.kernels.weights
import shim.ranks
from tests.faults.planted import fault


@fault("llama", "fully_sharded_ranks_have_rows_of_their_own")
def each_rank_traces_when_it_has_to(patch):
    patch.setattr(shim.ranks.Ranks, "everyone", lambda ranks, said: [said])
    patch.setattr(conformance.processes, "LIMIT", 4)  # which is how it shows


@fault("llama", "data_parallel_ranks_have_rows_of_their_own")
def the_second_rank_has_the_firsts_names(patch):
    import torch

    import shim.call

    original = shim.call.resolve

    def resolve(model, names):
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            names = [*names[-1:], *names[:-1]]
        return original(model, names)

    patch.setattr(shim.call, "resolve", resolve)


@fault("llama", "rows_are_the_same_where_weights_are_kept_elsewhere")
def weights_are_read_past_accelerates_hooks(patch):
    patch.setattr(
        shim.kernels.weights, "_only_weights", lambda modules, names: [modules[name].weight for name in names]
    )
