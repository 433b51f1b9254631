"""The errors that the parts outside the core raise. Each message says what happened, to what, with which value,
and what to do; it is shown to people as it is."""


class ConfineError(Exception):
    """Base of all errors of this project."""


class StepError(ConfineError):
    """A step could not be done. Nothing is half applied that the next try would not put right."""


class RegistryError(ConfineError):
    """A registry document could not be had or cannot be used."""


class SettingsError(ConfineError):
    """The node's own configuration (UCI) cannot be used."""
