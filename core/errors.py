"""The one kind of error that is the caller's to mend."""


class InputError(ValueError):
    """Something the caller gave cannot be used.

    The message is one sentence: what it is about, what was wanted, what came, what to do. Commands print it and exit
    with code 2. Any other exception is a fault of ours and keeps its traceback.
    """
