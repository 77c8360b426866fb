"""`InputError` is the one kind of error that the caller can mend."""

from triportrait.core.safe_text import LONGEST_SENTENCE, shown


class InputError(ValueError):
    """The caller gave something that cannot be used.

    The message is one sentence: what it is about, what was expected, what came, what to do. It may quote files, because
    it is kept on one line, printable, and within `LONGEST_SENTENCE` characters (see `shown`). Commands print it and
    exit with code 2. Any other exception is a fault of ours and keeps its traceback.
    """

    def __init__(self, message: object) -> None:
        super().__init__(shown(str(message), LONGEST_SENTENCE))
