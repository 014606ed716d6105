"""Which parameters came from a file."""
import copy

import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_state_dict

from scalenet_mm.checkpoints import LoadTracker
from scalenet_mm.errors import CheckpointError


class Detector(BaseModule):

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.fc_cls = nn.Linear(4, 3)
        self.mask_head = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))


@pytest.fixture
def detector(vit):
    return Detector(vit(growth=dict(), adjustment='paper'))


def freeze(model):
    for parameter in model.parameters():
        parameter.requires_grad = False


def load(model, state, how):
    if how == 'torch':
        model.load_state_dict(state, strict=False)
    elif how == 'assign':
        model.load_state_dict(state, strict=False, assign=True)
        freeze(model)
    else:
        load_state_dict(model, state, strict=False)


@pytest.mark.parametrize('how', ['torch', 'assign', 'mmengine'])
def test_a_whole_checkpoint_is_seen(how, detector):
    tracker = LoadTracker(detector)
    freeze(detector)
    load(detector, copy.deepcopy(detector.state_dict()), how)
    tracker.check_frozen(detector)


@pytest.mark.parametrize('how', ['torch', 'assign', 'mmengine'])
def test_what_is_missing_is_named_with_the_options(how, detector):
    tracker = LoadTracker(detector)
    freeze(detector)
    state = {k: v for k, v in detector.state_dict().items() if not k.startswith('mask_head.0')}
    load(detector, state, how)
    with pytest.raises(CheckpointError) as error:
        tracker.check_frozen(detector)
    message = str(error.value)
    assert message.startswith('2 parameters are frozen but came from no checkpoint')
    for part in ('stay random: mask_head.0.', 'load_from=', "dict(train=r'mask_head\\.0')",
                 'require_loaded=False', 'AdapterInjectionHook'):
        assert part in message
    # what trains need not come from a file
    for parameter in detector.mask_head[0].parameters():
        parameter.requires_grad = True
    tracker.check_frozen(detector)


def test_a_tensor_of_another_shape_is_not_loaded(detector):
    tracker = LoadTracker(detector)
    freeze(detector)
    state = dict(detector.state_dict(), **{'fc_cls.weight': torch.ones(7, 4)})
    load_state_dict(detector, state, strict=False)
    with pytest.raises(CheckpointError, match='1 parameters are frozen.*fc_cls'):
        tracker.check_frozen(detector)


def test_base_weights_fill_repeats(detector, vit):
    """Norms of repeats are copies of what the file gave their source."""
    tracker = LoadTracker(detector)
    freeze(detector)
    detector.backbone.load_state_dict(vit().state_dict())
    with pytest.raises(CheckpointError) as error:
        tracker.check_frozen(detector)
    assert 'backbone' not in str(error.value)
    assert 'fc_cls' in str(error.value)


def test_init_cfg_is_seen(tmp_path, vit):
    torch.save(vit().state_dict(), tmp_path / 'vit.pth')
    backbone = vit(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'vit.pth')))
    tracker = LoadTracker(backbone)
    freeze(backbone)
    with pytest.raises(CheckpointError):
        tracker.check_frozen(backbone)
    backbone.init_weights()
    tracker.check_frozen(backbone)


def test_init_cfg_of_stock_modules_is_seen(tmp_path):
    linear = nn.Linear(3, 2)
    torch.save({'head.weight': torch.ones(2, 3), 'head.bias': torch.ones(2)}, tmp_path / 'h.pth')
    model = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'h.pth')))
    model.head = linear
    tracker = LoadTracker(model)
    freeze(model)
    model.init_weights()
    tracker.check_frozen(model)


def test_resizing_counts_as_loaded(vit):
    model = vit(img_size=64)
    tracker = LoadTracker(model)
    freeze(model)
    model.load_state_dict(vit(img_size=48).state_dict())
    tracker.check_frozen(model)


def test_stop(detector):
    tracker = LoadTracker(detector)
    tracker.stop()
    detector.load_state_dict(detector.state_dict())
    assert not tracker.loaded
    assert not any(m._load_state_dict_pre_hooks for m in detector.modules())
