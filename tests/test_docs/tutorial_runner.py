"""Execute ``docs/tutorial.ipynb``; ``python tests/test_docs/tutorial_runner.py`` writes it anew."""
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'docs' / 'tutorial.ipynb'
#: All that a committed notebook says of where it runs.
METADATA = dict(
    kernelspec=dict(display_name='Python 3', language='python', name='python3'),
    language_info=dict(name='python'))


def read():
    """NotebookNode: The notebook as it is committed."""
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook, folder):
    """Execute a notebook, in place, in a folder that looks like a clone.

    Args:
        notebook (NotebookNode): The notebook.
        folder (Path): An empty folder.

    Returns:
        NotebookNode: The notebook with its outputs, without what differs from run to run.
    """
    (folder / 'docs').mkdir()
    (folder / 'configs').symlink_to(ROOT / 'configs')
    environment = dict(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE', CUDA_VISIBLE_DEVICES='',
                       PYTHONPATH=str(ROOT))
    kept = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        NotebookClient(
            notebook, timeout=600, kernel_name='python3', record_timing=False,
            resources=dict(metadata=dict(path=str(folder / 'docs')))).execute()
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    return strip(notebook)


def strip(notebook):
    """NotebookNode: The notebook without metadata, and streams in one piece."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for i, cell in enumerate(notebook.cells):
        cell.metadata = {}
        cell.id = f'cell-{i:02d}'
        for output in cell.get('outputs', ()):
            if 'metadata' in output:
                output.metadata = {}
    return notebook


def text_of(notebook):
    """str: All that the notebook's cells print."""
    return ''.join(output.text for cell in notebook.cells for output in cell.get('outputs', ())
                   if output.output_type == 'stream')


def pictures_of(notebook):
    """list[str]: Pictures, base64."""
    return [output.data['image/png'] for cell in notebook.cells
            for output in cell.get('outputs', ()) if 'image/png' in output.get('data', ())]


def figures_of(notebook):
    """dict: What the notebook found, by what it says of it."""
    text = text_of(notebook)
    found = {'base': [float(x) for x in re.search(
        r'accuracy after each epoch: ([\d. ]+)', text)[1].split()]}
    rows = re.findall(
        r'^(base|grown, .*?start|control, not grown) +([\d,]+) +([\d,]+) +([\d.]+) *([\d.]+)?$',
        text, re.M)
    for name, total, trainable, start, end in rows:
        found[f'{name}: row'] = dict(
            total=int(total.replace(',', '')), trainable=int(trainable.replace(',', '')),
            start=float(start), end=float(end) if end else None)
    for name, size in re.findall(r'^(base|grown, whole|grown, delta) +(\d+) KiB$', text, re.M):
        found[f'{name}: KiB'] = int(size)
    return found


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as temporary:
        fresh = execute(read(), Path(temporary))
    print(text_of(fresh))
    nbformat.write(fresh, NOTEBOOK)
    sys.exit(0)
