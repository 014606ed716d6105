"""What the tests of inference share."""
import api_toys
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from scalenet_mm import fast_paths, make_digit_scenes


@pytest.fixture(autouse=True, scope='module')
def quick_config_text():
    """Leave a config's text as it is: yapf's formatting takes longer than these models."""
    patch = pytest.MonkeyPatch()
    patch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def plain_and_alone():
    """Equal to the bit in the plain form alone; and one test leaves the next no scope."""
    for kind in (Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()
    threads = torch.get_num_threads()
    with fast_paths(False):
        yield
    torch.set_num_threads(threads)
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A folder of digit scenes."""
    root = tmp_path_factory.mktemp('digits') / 'digit_scenes'
    make_digit_scenes(root=str(root), num_train=4, num_val=4, cls_num_train=20, cls_num_val=10)
    return root


class Toys(dict):
    """A toy of each task whose toolbox is there, made when it is asked for."""

    def __init__(self, folder, root):
        super().__init__()
        self.places = folder, root

    def __missing__(self, task):
        pytest.importorskip(api_toys.SCOPES[task])
        self[task] = api_toys.Toy(task, *self.places)
        return self[task]


@pytest.fixture(scope='session')
def toys(tmp_path_factory, digits):
    """A toy of each task, by its name."""
    return Toys(tmp_path_factory.mktemp('toys'), digits)


@pytest.fixture(params=list(api_toys.TASKS))
def toy(request, toys):
    """Each toy in turn."""
    return toys[request.param]
