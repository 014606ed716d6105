"""The errors that the package raises for what a user can mend.

Their messages name the file, option or layer, and the fix. The command line tools print them
without a traceback.
"""


class ScaleNetError(Exception):
    """Base of all errors of the package that a user can mend."""


class ConfigError(ScaleNetError, ValueError):
    """A config, option or path that does not fit."""


class CheckpointError(ScaleNetError, RuntimeError):
    """A checkpoint that cannot be read or does not fit the model."""


class GrowthError(ScaleNetError, ValueError):
    """A growth, adjustment or freezing specification that does not fit the model."""


class DataError(ScaleNetError, RuntimeError):
    """A file of a data set that cannot be read."""


class ExportError(ScaleNetError, RuntimeError):
    """A model that cannot be exported, or whose exported form would not be the model."""
