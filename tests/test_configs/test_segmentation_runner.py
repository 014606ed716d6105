"""ADE20K configs through the Runner and the tools: narrow models, digit scenes in its layout."""
import copy
import math
import socket

import cv2
import mmcv
import numpy as np
import pytest
import torch
from imagenet_toys import official
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.structures import SegDataSample
from segmentation_toys import build, narrow, read
from torch.nn.modules.batchnorm import _BatchNorm

from scalenet_mm import CheckpointError
from scalenet_mm.datasets import make_digit_scenes
from scalenet_mm.engine import test as run_test
from scalenet_mm.engine.distributed import (
    CPUDistributedDataParallel,
    setup_distributed,
    shutdown_distributed,
)

#: One of each family.
FAMILIES = ['upernet_swin-t', 'upernet_deit-t_in1k-pre', 'segformer_swin-t', 'mask2former_swin-t']
VAL_IMAGES = 3


@pytest.fixture(autouse=True)
def unformatted_configs(monkeypatch):
    """Every Runner logs its config; to lay the text out is half of the time of these tests."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda code, **style: (code, True))


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory):
    """Digit scenes, cut to another shape, in ADE20K's layout: label 0 is no class there."""
    root = tmp_path_factory.mktemp('ade')
    make_digit_scenes(root=str(root / 'digits'), tasks=('seg', ), num_train=4, num_val=VAL_IMAGES)
    for split, name in (('train', 'training'), ('val', 'validation')):
        for kind in ('images', 'annotations'):
            (root / kind / name).mkdir(parents=True)
        for path in sorted((root / 'digits' / 'seg' / 'img_dir' / split).glob('*.png')):
            image = cv2.imread(str(path))[:96]
            labels = cv2.imread(str(path).replace('img_dir', 'ann_dir'), cv2.IMREAD_UNCHANGED)[:96]
            cv2.imwrite(str(root / 'images' / name / f'{path.stem}.jpg'), image)
            cv2.imwrite(str(root / 'annotations' / name / path.name), labels + 1)
    return root


class Recorder(Hook):
    """Keep the weights that training starts from."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.before = {k: v.clone() for k, v in runner.model.state_dict().items()}


def shrink(name, ade20k, tmp_path, iterations=3):
    """Config: As it is, but for the model's width and the sizes of images and run."""
    crop = (70, 90)
    cfg = narrow(read(name), crop)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(ade20k)
        for step in loader.dataset.pipeline:
            if step.get('scale') == (2048, 512):
                step.scale = (320, 80)
            if 'scales' in step:
                step.scales = [60, 80]
            if 'crop_size' in step:
                step.crop_size = crop
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.default_hooks.checkpoint.interval = iterations
    cfg.param_scheduler = None  # three iterations into the warm-up nothing moves
    cfg.optim_wrapper.optimizer.lr = 0.01
    cfg.work_dir = str(tmp_path / 'work')
    cfg.visualizer.name = str(tmp_path)  # one of this name would be used again
    # where it starts: files of the narrow model in the place of those to be downloaded
    path = tmp_path / 'start.pth'
    if cfg.load_from is None:
        kind = 'deit-t' if 'deit' in name else 'swin-t'
        torch.save(official(kind), path)
        cfg.model.backbone.init_cfg.checkpoint = str(path)
    else:
        torch.save(trained_segmentor(cfg), path)
        cfg.load_from = str(path)
    return cfg


def trained_segmentor(cfg):
    """dict: A file of the ungrown segmentor, with drawn statistics in its BatchNorms."""
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.update(growth=None, adjustment=None)
    torch.manual_seed(0)
    model = build(cfg)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.)
    return dict(state_dict=model.state_dict(), meta={})


def train(cfg):
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    after = runner.model.state_dict()
    return runner, recorder, {k for k in after if not torch.equal(after[k], recorder.before[k])}


@pytest.mark.parametrize('name', FAMILIES)
def test_trains_validates_and_tests(name, ade20k, tmp_path):
    cfg = shrink(name, ade20k, tmp_path)
    runner, recorder, moved = train(cfg)
    scores = runner.message_hub.log_scalars
    assert math.isfinite(scores['train/loss'].current())
    assert 0 <= scores['val/mIoU'].current() <= 100

    trained = {k for k, p in runner.model.named_parameters() if p.requires_grad}
    statistics = {f'{k}.{b}' for k, m in runner.model.named_modules() if isinstance(m, _BatchNorm)
                  for b in ('running_mean', 'running_var', 'num_batches_tracked')}
    assert bool(statistics) == (not name.startswith('mask2former'))
    conv_seg = {f'{head}.conv_seg.{part}' for head in ('decode_head', 'auxiliary_head')
                for part in ('weight', 'bias')}
    heads = {k for k in moved if not k.startswith('backbone.')}
    if cfg.load_from is not None:
        # of the trained segmentor's heads nothing moves but the last layers, statistics neither
        assert heads == conv_seg
        given = torch.load(cfg.load_from, weights_only=True)['state_dict']
        assert all(torch.equal(recorder.before[k], v) for k, v in given.items())
    else:
        assert heads <= trained | statistics
        new = {k for k in trained if not k.startswith('backbone.')}
        assert len(heads) > 0.9 * len(new | statistics)  # Mask2Former's last layers see few masks
    assert {k for k in moved if k.startswith('backbone.')} <= trained
    repeats = {k for k in trained if '_r1.' in k and k.endswith('adapter_up')}
    assert repeats and len(repeats & moved) > len(repeats) / 2  # drop path may drop some

    # the checkpoint gives the same scores by tools/test.py
    cfg.dump(tmp_path / 'config.py')
    scores = run_test([str(tmp_path / 'config.py'), f'{cfg.work_dir}/iter_3.pth'])
    assert scores['mIoU'] == runner.message_hub.get_scalar('val/mIoU').current()


@pytest.fixture
def one_process_of_a_launch(monkeypatch):
    """What dist_train.sh sets for a process, as if it were the only one."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    launch = dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, LOCAL_WORLD_SIZE=1, MASTER_ADDR='127.0.0.1',
                  MASTER_PORT=port)
    for variable, value in launch.items():
        monkeypatch.setenv(variable, str(value))
    yield
    shutdown_distributed()


@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without GPU')
@pytest.mark.parametrize('name', ['upernet_swin-t', 'segformer_swin-t'])
def test_distributed_on_the_cpu(name, ade20k, tmp_path, one_process_of_a_launch):
    """DDP refuses SyncBN there; frozen statistics stay behind the hook's wrap, too, others move."""
    cfg = shrink(name, ade20k, tmp_path, iterations=1)
    cfg.launcher = 'pytorch'
    setup_distributed(cfg)
    runner, _, moved = train(cfg)
    assert type(runner.model) is CPUDistributedDataParallel
    norms = [m for m in runner.model.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)
    steps = {int(m.num_batches_tracked) for m in norms}
    assert steps == ({0} if cfg.load_from is not None else {1})
    assert 'module.decode_head.conv_seg.weight' in moved
    assert any('_r1.' in k and k.endswith('adapter_up') for k in moved)


def test_frozen_and_not_loaded_is_refused(ade20k, tmp_path):
    """Without the trained segmentor its heads would stay random."""
    cfg = shrink('upernet_swin-t', ade20k, tmp_path)
    cfg.load_from = None
    with pytest.raises(CheckpointError, match='came from no checkpoint'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('name', ['upernet_swin-t', 'upernet_deit-t_in1k-pre',
                                  'mask2former_swin-t'])
def test_augmented_test_and_pictures(name, ade20k, tmp_path):
    """tools/test.py CONFIG CHECKPOINT --tta --show-dir DIR --out DIR."""
    torch.manual_seed(0)
    cfg = shrink(name, ade20k, tmp_path)
    model = build(cfg).eval()
    model.init_weights()
    last = ('.conv_seg.', '.cls_embed.', '.mask_embed.4.', '.mask_feature.')
    for parameter, p in model.named_parameters():  # label maps of more than one class
        if any(layer in parameter for layer in last):
            torch.nn.init.normal_(p, std=3. if parameter.endswith('weight') else 0.)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'model.pth')
    cfg.train_dataloader.dataset.data_root = 'not_there'  # a test needs no training data
    cfg.dump(tmp_path / 'config.py')
    scores = run_test([str(tmp_path / 'config.py'), str(tmp_path / 'model.pth'), '--tta',
                       '--show-dir', str(tmp_path / 'pictures'), '--out', str(tmp_path / 'maps')])
    assert 0 <= scores['mIoU'] <= 100

    images = sorted((ade20k / 'images' / 'validation').glob('*.jpg'))
    pictures = sorted((tmp_path / 'pictures').rglob('*.png'))
    assert len(pictures) == len(images) == VAL_IMAGES
    for image, picture in zip(images, pictures):
        assert image.name in picture.name
        height, width = cv2.imread(str(image)).shape[:2]
        # truth and prediction side by side
        drawn = cv2.imread(str(picture))
        assert drawn.shape == (height, 2 * width, 3)
        assert (drawn[:, :width] != drawn[:, width:]).any()
    # six sizes, flipped and not; --out writes ADE20K's labels, which begin at 1
    labels = cv2.imread(str(tmp_path / 'maps' / f'{image.stem}.png'), cv2.IMREAD_UNCHANGED)
    assert len(np.unique(labels)) > 1
    views = probabilities(model, mmcv.imread(image))
    assert len(views) == 12
    # up to rounding
    assert (sum(views).argmax(0).numpy() + 1 == labels).mean() > 0.999
    single = views[4].argmax(0).numpy() + 1
    assert 0.001 < (single != labels).mean()


def probabilities(model, image):
    """list[Tensor]: Probabilities of an image's views, on the image's pixels."""
    height, width = image.shape[:2]
    views = []
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
        size = (int(width * ratio + 0.5), int(height * ratio + 0.5))
        scaled = torch.from_numpy(mmcv.imrescale(image, size)).permute(2, 0, 1)
        for flip in (False, True):
            view = scaled.flip(2) if flip else scaled
            metainfo = dict(img_shape=view.shape[1:], ori_shape=(height, width), flip=flip,
                            flip_direction='horizontal')
            with torch.no_grad():
                sample, = model.test_step(
                    dict(inputs=[view], data_samples=[SegDataSample(metainfo=metainfo)]))
            # resized and flipped back by mmseg's segmentor
            views.append(sample.seg_logits.data.softmax(0))
    return views


def test_the_dumped_config_is_the_recipe(ade20k, tmp_path):
    """What a run saves beside its checkpoints builds the same model again."""
    cfg = shrink('upernet_swin-t', ade20k, tmp_path, iterations=1)
    runner, _, _ = train(cfg)
    saved, = (tmp_path / 'work').rglob('config.py')
    again = build(Config.fromfile(saved))
    assert set(again.state_dict()) == set(runner.model.state_dict())
