"""The error of everything that can never be served, for all who check what callers ask for."""

from __future__ import annotations


class InvalidRequest(ValueError):
    """A request that can never be served. `str()` is one line: the field, what is wrong with it, what would work."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(field, problem, remedy)
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}; {self.remedy}"


def shown(value: object) -> str:
    """`repr`, on one line and short enough for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
