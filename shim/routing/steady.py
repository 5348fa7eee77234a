"""A route that runs every forward to its end, for other ranks wait at each of its layers."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Tuple, Type

from shim.selection import Route, Selection, select


class Steady(Route):
    """Another route, and from its first refusal on the base model, whose output nobody may use.

    problem: what the route raised.
    """

    def __init__(self, route: Route, base: Selection, refusals: Tuple[Type[Exception], ...]) -> None:
        self.problem: Optional[Exception] = None
        self._route, self._base, self._refusals = route, base, refusals

    def again(self) -> Optional[Callable[[], Route]]:
        """Return what makes a route for the layer calls from here on, once more after the call."""
        return self._route.again()

    def asked(self, layer: Any) -> None:
        """Take note that `layer` was asked for its adapter outside of its own forward."""
        self._route.asked(layer)

    def run_layer(self, layer: Any, forward: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Return what the route makes of the layer; of the base after its refusal."""
        if self.problem is None:
            try:
                return self._route.run_layer(layer, forward, args, kwargs)
            except self._refusals as problem:
                self.problem = problem
        with select(self._base):
            return forward(layer, *args, **kwargs)

    def check(self) -> None:
        """Raise what the route raised."""
        if self.problem is not None:
            raise self.problem
