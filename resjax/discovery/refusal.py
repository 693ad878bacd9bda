"""The error of a network whose residual units can't be found, or can't be used as asked."""

from __future__ import annotations

from resjax.network.refusal import Refusal


class NotFound(Refusal):
    """The residual structure of a function is not one that resjax can take apart, or not in the way asked
    for.

    The text says what was found instead, and what to do.
    """
