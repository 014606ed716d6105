"""What the tests of learngenes share."""
import gene_toys
import pytest

from scalenet_mm.learngene import extract_gene, save_gene


@pytest.fixture(autouse=True, scope='module')
def quick_config_text():
    """Leave a config's text as it is: yapf's formatting takes longer than these models."""
    patch = pytest.MonkeyPatch()
    patch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
    yield
    patch.undo()


@pytest.fixture
def aux(tmp_path):
    """Path and model of a trained auxiliary net."""
    path = str(tmp_path / 'aux.pth')
    return path, gene_toys.save_trained(path, gene_toys.auxiliary_cfg())


@pytest.fixture
def gene_file(aux, tmp_path):
    """Path of its learngene."""
    path = str(tmp_path / 'gene.pth')
    save_gene(extract_gene(aux[0]), path)
    return path
