"""LICENSE, CITATION.cff, CHANGELOG.md and CONTRIBUTING.md: complete, and true of the version."""
import datetime
import hashlib
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import scalenet_mm

ROOT = Path(__file__).resolve().parents[1]
#: Keys that the format's version 1.2.0 knows, of the file and of a reference.
CFF_KEYS = {'abstract', 'authors', 'cff-version', 'commit', 'contact', 'date-released', 'doi',
            'identifiers', 'keywords', 'license', 'license-url', 'message', 'preferred-citation',
            'references', 'repository', 'repository-artifact', 'repository-code', 'title', 'type',
            'url', 'version'}
PERSON = {'address', 'affiliation', 'alias', 'city', 'country', 'email', 'family-names', 'fax',
          'given-names', 'name-particle', 'name-suffix', 'orcid', 'post-code', 'region', 'tel',
          'website'}
ENTITY = {'name', 'alias', 'website', 'email', 'orcid', 'address', 'city', 'country'}


def check_cff(cff):
    """Check what the format demands of a citation file.

    Raises:
        AssertionError: If it demands more, or does not know something.
    """
    for key in ('cff-version', 'message', 'title', 'authors'):
        assert cff.get(key), f'{key} is missing'
    assert cff['cff-version'] == '1.2.0'
    assert set(cff) <= CFF_KEYS, f'unknown: {set(cff) - CFF_KEYS}'
    assert cff.get('type', 'software') in ('software', 'dataset')
    for place in (cff, *cff.get('references', [])):
        for key in ('title', 'authors'):
            assert place.get(key), f'{key} is missing'
        for author in place['authors']:
            known = ENTITY if 'name' in author else PERSON
            assert author and set(author) <= known, author
        for one in place.get('identifiers', []):
            assert one['type'] in ('doi', 'url', 'swh', 'other') and isinstance(one['value'], str)
        assert all(isinstance(word, str) for word in place.get('keywords', []))
        assert isinstance(place.get('year', 2000), int)
        assert isinstance(place.get('version', ''), str)
        assert place.get('url', 'https://').startswith('https://')
    for reference in cff.get('references', []):
        assert reference.get('type') in ('article', 'software', 'conference-paper', 'generic')
    if 'date-released' in cff:
        assert isinstance(cff['date-released'], datetime.date)


def read_cff():
    return yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))


def test_license():
    """Apache's text, to the letter."""
    text = (ROOT / 'LICENSE').read_bytes()
    assert hashlib.sha256(text).hexdigest() == \
        'cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30'


def test_citation():
    cff = read_cff()
    check_cff(cff)
    assert cff['version'] == scalenet_mm.__version__
    assert cff['license'] == 'Apache-2.0'
    urls = [reference['url'] for reference in cff['references']]
    assert urls == ['https://arxiv.org/abs/2510.18431', 'https://arxiv.org/abs/2404.16897']
    for reference in cff['references']:
        assert reference['identifiers'][0]['value'] == 'arXiv:' + reference['url'].split('/')[-1]


@pytest.mark.parametrize('change', [
    lambda cff: cff.pop('message'), lambda cff: cff.update(author=['me']),
    lambda cff: cff.update({'cff-version': '1.1.0'}), lambda cff: cff['authors'].clear(),
    lambda cff: cff.update(version=0.1), lambda cff: cff['references'][0].pop('type'),
    lambda cff: cff['references'][1]['authors'][0].update(surname='X'),
    lambda cff: cff['references'][1].update(year='2024'),
    lambda cff: cff.update(type='program')])
def test_citation_that_is_none(change):
    cff = read_cff()
    change(cff)
    with pytest.raises(AssertionError):
        check_cff(cff)


def test_changelog():
    """Sections are versions or Unreleased, newest first, and hold the known kinds of change."""
    text = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    assert text.startswith('# Changelog\n')
    sections = re.findall(r'^## (.*)$', text, re.MULTILINE)
    released = [re.fullmatch(r'\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})', name)
                for name in sections if name != 'Unreleased']
    assert sections and all(released)
    numbers = [tuple(map(int, match[1].split('.'))) for match in released]
    assert numbers == sorted(numbers, reverse=True)
    assert scalenet_mm.__version__ in text
    kinds = re.findall(r'^### (.*)$', text, re.MULTILINE)
    assert set(kinds) <= {'Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security'}


@pytest.mark.parametrize('name', ['CHANGELOG.md', 'CONTRIBUTING.md'])
def test_what_they_name_is_there(name):
    text = (ROOT / name).read_text(encoding='utf-8')
    named = set(re.findall(r'`((?:tools|scalenet_mm|tests|configs|benchmarks|docs)/[\w/.-]+)`',
                           text))
    named |= {link for link in re.findall(r'\]\(([^)#]+)', text) if '://' not in link}
    generated = {'docs/_build/html', 'configs/my_net.py', 'scalenet_mm/.mim',
                 'scalenet_mm/.mim/tools'}
    missing = {path for path in named - generated if not (ROOT / path).exists()}
    assert named and not missing
    for public in re.findall(r'`scalenet_mm\.(\w+)`', text):
        assert hasattr(scalenet_mm, public), public


def test_make_targets_they_name():
    """... exist, with all the words that may follow `make`."""
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    for name in ('CHANGELOG.md', 'CONTRIBUTING.md', '.pre-commit-config.yaml'):
        text = (ROOT / name).read_text(encoding='utf-8')
        found = re.findall(r'^make ([a-z-]+)|`make ([a-z -]+?)(?: [A-Z]+=[^`]*)?`', text,
                           re.MULTILINE)
        for words in found:
            assert set(' '.join(words).split()) <= targets, words


def test_nothing_needed_is_ignored():
    """Git takes every file that the packages and the linters need."""
    if not (ROOT / '.git').exists():
        pytest.skip('this is no clone')
    names = ['LICENSE', 'CITATION.cff', 'CHANGELOG.md', 'CONTRIBUTING.md', 'MANIFEST.in',
             'model-index.yml', '.pre-commit-config.yaml', 'scalenet_mm/py.typed',
             'tools/dev/lint.py']
    done = subprocess.run(['git', 'check-ignore', *names], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ''
    assert all((ROOT / name).is_file() for name in names)
