"""Models to compare with, behind the same ``Learner`` interface."""
