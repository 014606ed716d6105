"""Fixtures for the tests of exports."""
import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def forget_scope():
    """Leave no default scope behind."""
    yield
    DefaultScope._instance_dict.clear()
