"""The error of an analysis that a network does not allow."""

from __future__ import annotations


class Refusal(ValueError):
    """A network, its data or its log does not allow an analysis, whatever the arguments; the text says why.

    Wrong arguments are a plain ``ValueError``. The report lists a refusal as left out, any other error as a
    failure.
    """
