"""The code blocks of the README and the documents; CONTRIBUTING.md has the rules.

A page is one test: ``pytest tests/test_docs/test_blocks.py -k inference``.
"""
import sys

import pytest
import torch
from block_runner import do_page, make_folder, pages, read_blocks
from mmengine.registry import DefaultScope

import scalenet_mm  # noqa: F401  before the path has the page's folder in it


@pytest.fixture
def page_folder(tmp_path, monkeypatch):
    """The folder in which a page's blocks run."""
    make_folder(tmp_path / 'page')
    monkeypatch.chdir(tmp_path / 'page')
    monkeypatch.syspath_prepend(str(tmp_path / 'page'))
    modules = set(sys.modules)
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
    threads = torch.get_num_threads()
    yield tmp_path / 'page'
    torch.set_num_threads(threads)
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], '__file__', '')):
            del sys.modules[name]
    DefaultScope._instance_dict.clear()


@pytest.mark.parametrize('page', pages())
def test_page(page, page_folder):
    torch.manual_seed(0)
    do_page(page)


def test_what_is_skipped(capsys):
    """Every skip has a reason (the reader of the markers asks for it), and few blocks are."""
    blocks = [block for page in pages() for block in read_blocks(page)
              if block.language in ('python', 'bash')]
    skipped = [block for block in blocks if block.action == 'skip']
    with capsys.disabled():
        for block in skipped:
            print(f'\nskipped: {block.place}: {block.argument}', end='')
    assert len(skipped) <= .1 * len(blocks)
