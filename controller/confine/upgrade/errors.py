"""The errors of upgrades. Shown to people as they are: what happened, to what, what to do."""

from confine.errors import ConfineError


class UpgradeError(ConfineError):
    """Something of an upgrade could not be done. The confirmed slot is as it was."""
