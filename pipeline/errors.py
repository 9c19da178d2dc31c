"""Errors of the pipeline; a user's mistake is ``mtm.UserError``."""


class StageError(RuntimeError):
    """A stage failed for a reason that is no user's mistake."""
