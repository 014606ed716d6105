"""Models that are built to be looked at: nobody wants to read how they came about."""
import logging
from contextlib import contextmanager

from mmengine.logging import MMLogger


@contextmanager
def quiet():
    """Let mmengine's logger tell warnings alone for a while."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)
