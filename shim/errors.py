"""The errors a mixed-adapter batch can raise; all are `ValueError`s, as upstream's own are."""

from __future__ import annotations

from typing import Callable, Optional


class ShimError(Exception):
    """Base of every error raised by `shim`."""


class PatchError(ShimError, RuntimeError):
    """A patch could not be applied or restored; nothing was changed."""


class PlanError(ShimError, ValueError):
    """A file of plans is for another model, other versions or another format."""


class MixedBatchError(ShimError, ValueError):
    """A mixed-adapter batch was not run; the model is as it was before the call."""


class AdapterNamesError(MixedBatchError):
    """`adapter_names` is not one name per sample (contract F2), or is not a list of names."""


class UnknownAdapterError(MixedBatchError):
    """A name is not loaded on the model: never loaded, or deleted (contract F1)."""


class RefusedError(MixedBatchError):
    """The batch cannot be proven exact (contract F3, F4, R8).

    The message names what stands in the way (a layer, an input, an output), its shape, and the way out.
    """


class Unroutable(ShimError):
    """The rows of a call cannot be proven in one pass, for the reason given; another route is tried.

    Users meet it as the reason in a `RefusedError` or an explanation, never by itself.
    by_value: whether Python read integers of the inputs, so that it may hold for these values of theirs alone.
    hangs_on_values: whether samples may have met in the forward, so that whether one changes another's rows hangs on
    the values of each call; not where the reason is one of the adapters' alone.
    """

    by_value = False
    hangs_on_values = True

    def keep_by(self, keep: Callable[[], None]) -> None:
        """Let `keep` remember the reason, so that later calls like this one are not tried again."""
        keep()

    def served_otherwise(self) -> None:
        """Hear that another route has run this very call."""


class RaisedInTrace(Unroutable):
    """The model itself raised while it was traced: its inputs may be at fault, or the trace.

    No later call is judged by it, unless another route runs this very call.
    """

    _keep: Optional[Callable[[], None]] = None

    def keep_by(self, keep: Callable[[], None]) -> None:
        """Wait until another route has shown that the inputs are not at fault."""
        self._keep = keep

    def served_otherwise(self) -> None:
        """Remember the reason now."""
        if self._keep is not None:
            self._keep()
