"""What callers of an engine that serves many may meet, wherever it runs."""


class EngineDeadError(RuntimeError):
    """The engine has ended, or cannot run a step; the cause, if it was a failure, is `__cause__`."""
