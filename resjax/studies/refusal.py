"""What an analysis raises where nothing is wrong with the question, but this network has no answer to it."""

from __future__ import annotations


class Refusal(ValueError):
    """A network, its data or its log does not allow an analysis, whatever its arguments; it says why.

    Wrong arguments are plain ``ValueError``: a report lists a refusal as left out, and another error as a
    failure.
    """
