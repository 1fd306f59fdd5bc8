"""The exceptions for what a user can cause and mend, and the warnings."""


class InputError(Exception):
    """Bad input: one sentence that says what was found, where, what was expected and what to do.

    The commands print it without a traceback and exit with `status`.
    """

    status = 2


class LostError(InputError):
    """A process was lost, by whatever ended it: the same command goes on with what it was doing."""

    status = 3


class UntrustedError(InputError):
    """Data that were read, but cannot be right; `method.trust` evaluates them all the same."""


class EngineWarning(UserWarning):
    """Something about this machine makes the work slower than it could be."""


class StoreWarning(UserWarning):
    """An entry of the store is corrupt and is computed again: nothing is lost, but a disk may be failing."""
