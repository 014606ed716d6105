"""A classifier that an ImageNet config trained, as the start of detection and segmentation."""
import re
from pathlib import Path

import detection_toys
import imagenet_toys
import pytest
import segmentation_toys
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from scalenet_mm import CheckpointError
from scalenet_mm.checkpoints.delta import extract_delta, write_checkpoint
from scalenet_mm.checkpoints.report import what_growth_added
from scalenet_mm.checkpoints.safe import load_file
from scalenet_mm.datasets import make_digit_scenes

#: ImageNet config -> detector, segmentor
DENSE = {
    'swin-t': ('maskrcnn_scalenet_swin-t_in1k-pre_1x', 'upernet_swin-t_in1k-pre'),
    'deit-t': ('maskrcnn_scalenet_deit-t_in1k-pre_1x', 'upernet_deit-t_in1k-pre'),
}


class Loaded(Exception):
    """What ends a run when its weights are final."""


class Stop(Hook):
    """Keep the weights that training starts from, and end the run."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.state = {k: v.clone() for k, v in runner.model.state_dict().items()}
        raise Loaded


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes') / 'digits'
    make_digit_scenes(root=str(root), tasks=('det', 'seg'), num_train=2, num_val=1)
    return root


@pytest.fixture(scope='module')
def classifiers(tmp_path_factory):
    """Checkpoints of the two narrow classifiers, one epoch old, as the Runner saves them."""
    root = tmp_path_factory.mktemp('classifiers')
    photos = imagenet_toys.make_photos(tmp_path_factory.mktemp('imagenet'))
    files = {}
    for name in DENSE:
        cfg = imagenet_toys.narrow(imagenet_toys.read(name), name)
        cfg.load_from = str(root / f'{name}.pth')
        torch.save(imagenet_toys.official(name), cfg.load_from)
        Runner.from_cfg(imagenet_toys.on_photos(cfg, photos, root / name, 1)).train()
        files[name] = str(root / name / 'epoch_1.pth')
    return files


def dense(name, task, digits, work_dir):
    """Config: A narrow detector or segmentor that trains on digit scenes."""
    if task == 'detector':
        cfg = detection_toys.shrink(detection_toys.read(DENSE[name][0]))
        detection_toys.on_digits(cfg, digits, work_dir)
    else:
        cfg = segmentation_toys.narrow(segmentation_toys.read(DENSE[name][1]), (64, 64))
        data = Config.fromfile(imagenet_toys.CONFIGS / 'quickstart/_base_/digits_segmentation.py')
        data.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
        data.train_dataloader.dataset.data_root = f'{digits}/seg/'
        cfg.train_dataloader = data.train_dataloader
        for head in ('decode_head', 'auxiliary_head'):
            cfg.model[head].num_classes = 11
        cfg.work_dir = str(work_dir)
    for split in ('val', 'test'):
        cfg.update({f'{split}_{part}': None for part in ('cfg', 'dataloader', 'evaluator')})
    return cfg


def give(cfg, how, file):
    cfg.load_from = file if how == 'load_from' else None
    cfg.model.backbone.init_cfg = None if how == 'load_from' else dict(
        type='Pretrained', checkpoint=file)


def weights_of(cfg):
    """dict: The weights that a run starts from."""
    runner, stop = Runner.from_cfg(cfg), Stop()
    runner.register_hook(stop)
    with pytest.raises(Loaded):
        runner.train()
    return stop.state


@pytest.mark.parametrize('how', ['init_cfg', 'load_from'])
@pytest.mark.parametrize('task', ['detector', 'segmentor'])
@pytest.mark.parametrize('name', DENSE)
def test_drops_in(name, task, how, classifiers, digits, tmp_path):
    cfg = dense(name, task, digits, tmp_path / 'work')
    give(cfg, how, classifiers[name])
    state = weights_of(cfg)
    given = load_file(classifiers[name])['state_dict']

    # all that the classifier's backbone trained or kept is there, to the bit
    own = {k: v for k, v in given.items() if k.startswith('backbone.')}
    assert any('_r1.' in k and k.endswith('adapter_up') and v.any() for k, v in own.items())
    assert [k for k, v in own.items() if k not in state or not torch.equal(state[k], v)] == []

    # Swin: stages 1 to 3 are doubled here, and were not there: they start as their sources
    lacking = {k for k in state if k.startswith('backbone.') and k not in own}
    repeats = {k for k in lacking if '_r1.' in k}
    output_norms = {k for k in lacking if re.match(r'backbone\.norm\d\.', k)}
    assert lacking == repeats | output_norms
    assert bool(repeats) == bool(output_norms) == (name == 'swin-t')
    for key in repeats:
        if 'relative_position_index' not in key:
            assert torch.equal(state[key], own[key.replace('_r1.', '.')]), key

    log = ''.join(path.read_text() for path in (tmp_path / 'work').rglob('*.log'))
    line = next(x for x in log.splitlines() if 'Loaded ' in x)
    assert classifiers[name] in line and '(OpenMMLab)' in line
    if repeats:
        # of 10 blocks: two norms and the adapters of two linears, two tensors each
        assert "40 norms of repeats (copies of their source's last instance)" in line
        assert "40 adapters or LoRA of repeats (copies of their source's last instance)" in line
    if how == 'load_from':
        assert 'ignored: head.' in line


@pytest.fixture(scope='module')
def deltas(classifiers):
    """The same checkpoints without what an ungrown model of the same weights has."""
    files = {}
    for name, whole in classifiers.items():
        folder = Path(whole).parent
        added = what_growth_added(load_file(whole)['state_dict'])
        torch.save({k: v for k, v in load_file(whole)['state_dict'].items()
                    if not any(k in keys for keys in added.values())}, folder / 'ungrown.pth')
        files[name] = str(folder / 'delta.pth')
        write_checkpoint(extract_delta(whole, str(folder / 'ungrown.pth')), files[name])
    return files


@pytest.mark.parametrize('how', ['init_cfg', 'load_from'])
@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_a_delta_drops_in(task, how, classifiers, deltas, digits, tmp_path):
    states = []
    for number, file in enumerate((classifiers['deit-t'], deltas['deit-t'])):
        cfg = dense('deit-t', task, digits, tmp_path / str(number))
        give(cfg, how, file)
        states.append(weights_of(cfg))
    assert Path(deltas['deit-t']).stat().st_size < Path(classifiers['deit-t']).stat().st_size
    whole, delta = states
    assert whole.keys() == delta.keys()
    for key, value in whole.items():
        if key.startswith('backbone.'):
            assert torch.equal(delta[key], value), key


@pytest.mark.parametrize('how', ['init_cfg', 'load_from'])
def test_a_delta_for_a_model_that_is_grown_further(how, deltas, digits, tmp_path):
    # ImageNet's Swin repeats the blocks of the last stage alone
    cfg = dense('swin-t', 'detector', digits, tmp_path / 'work')
    give(cfg, how, deltas['swin-t'])
    with pytest.raises(CheckpointError, match='a delta of a model with 2 blocks in stages.0.blocks '
                       '.*, and this one has 4 .*tools/delta.py apply'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('how', ['init_cfg', 'load_from'])
@pytest.mark.parametrize('task', ['detector', 'segmentor'])
@pytest.mark.parametrize('name', DENSE)
def test_grown_further_than_the_model_is_refused(name, task, how, classifiers, digits, tmp_path):
    cfg = dense(name, task, digits, tmp_path / 'work')
    cfg.model.backbone.growth = None
    give(cfg, how, classifiers[name])
    block = 'stages.3.blocks.0_r1' if name == 'swin-t' else 'layers.0_r1'
    with pytest.raises(CheckpointError) as error:
        Runner.from_cfg(cfg).train()
    assert classifiers[name] in str(error.value)
    assert ('the file is grown further than the model, which does not repeat '
            f'{block}, ') in str(error.value)
    assert 'growth must be that of the file, or more' in str(error.value)
