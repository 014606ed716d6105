"""What the configs' tests share."""
import pytest


@pytest.fixture(autouse=True)
def plain_config_text(monkeypatch):
    """Leave a config's text as it is: mmengine formats it five times a run.

    That takes longer than to train and test a narrow model.
    """
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
