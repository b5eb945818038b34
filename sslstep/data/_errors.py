"""The error of every source whose data cannot be had."""

__all__ = ["DatasetNotFoundError"]


class DatasetNotFoundError(FileNotFoundError):
    """The data asked for are not on this computer, or not whole.

    The message says what was looked for, where, and what to do about it.
    """
