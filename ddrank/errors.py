"""The one exception for what a user can cause and mend."""


class InputError(Exception):
    """Bad input: one sentence that says what was found, where, what was expected and what to do.

    The commands print it without a traceback and exit with status 2.
    """
