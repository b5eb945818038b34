"""The error for data that cannot be read."""


class DatasetNotFoundError(FileNotFoundError):
    """Data are missing, incomplete or damaged.

    The message names the data, the place where they were expected, and the remedy.
    """
