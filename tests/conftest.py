"""What all tests share."""
import os

import pytest
from mmengine.config import config as mmengine_config
from yapf.yapflib import yapf_api

# OneDL's mmengine looks for yapf's function when it formats a config's text. Tests that leave the
# text as it is replace the function where the original has it: so it is looked up there.
if not hasattr(mmengine_config, 'FormatCode'):
    mmengine_config.FormatCode = yapf_api.FormatCode
    yapf_api.FormatCode = lambda *args, **kwargs: mmengine_config.FormatCode(*args, **kwargs)


def pytest_configure(config):
    """Name the marks."""
    config.addinivalue_line('markers', 'needs_toolbox(name): cannot run without that toolbox, and '
                            'its failure would not say so (see tools/dev/stack_plugin.py)')


def _refuse_missing_packages(report):
    """A test that skips itself for want of a package has failed: here all of them are installed.

    In an environment with fewer packages (`tools/dev/stacks.py`) it counts as not run.
    """
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ''
    if report.skipped and 'could not import' in reason and not os.environ.get('SCALENET_STACK'):
        report.outcome, report.longrepr = 'failed', reason
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Let no test skip itself for want of a package."""
    return _refuse_missing_packages((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """Let no file of tests skip itself for want of a package."""
    return _refuse_missing_packages((yield))
