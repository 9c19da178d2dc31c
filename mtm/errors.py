"""The one error that a user is meant to read."""


class UserError(ValueError):
    """A mistake that the user can mend. Its message is one line: what is wrong, and what to do."""
