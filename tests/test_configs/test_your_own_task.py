"""The configs of docs/your_own_task.md: each builds at full size, one of each kind trains."""
import re

import pytest
import torch
from detection_toys import on_digits, shrink
from imagenet_toys import CONFIGS
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from segmentation_toys import narrow

from scalenet_mm import grow_backbone
from scalenet_mm.analysis.meta_model import build_on_meta
from scalenet_mm.datasets import make_digit_scenes
from scalenet_mm.growth import apply_freezing, growth_of

PAGE = (CONFIGS.parent / 'docs' / 'your_own_task.md').read_text()
#: heading -> its code blocks; those that do not begin with _base_ are added to the first
SECTIONS = {
    section.splitlines()[0]: [b.split('```')[0] for b in section.split('```python\n')[1:]]
    for section in PAGE.split('\n## ')[1:]
}
OBJECTS = SECTIONS['Objects: a COCO-format folder']
SCENES = SECTIONS['Scenes: a folder of images and label maps']
STOCK, = SECTIONS['The hook on a stock model']
FINAL = {f'roi_head.bbox_head.{name}' for name in ('fc_cls', 'fc_reg')}


def read(tmp_path, *blocks, base=None):
    """Config: Of blocks of the page, with another base if one is given."""
    text = '\n'.join(blocks)
    named, = re.findall(r"^_base_ = '\./(.*)'$", text, re.M)
    (tmp_path / 'mine.py').write_text(
        text.replace(f'./{named}', str(CONFIGS / (base or named))))
    return Config.fromfile(tmp_path / 'mine.py')


def trains(model):
    """set[str]: The modules outside of the backbone that train."""
    return {n.rpartition('.')[0] for n, p in model.named_parameters()
            if p.requires_grad and not n.startswith('backbone.')}


def parts(names):
    return {name.split('.')[0] for name in names}


def check_objects(cfg):
    """Does a config read the folder as it is laid out?"""
    for split, name in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.metainfo.classes == ('cat', 'dog')
        assert dataset.data_root == 'data/my_objects'
        assert (dataset.ann_file, dataset.data_prefix) == (
            f'annotations/{name}.json', dict(img=f'{name}/'))
    for split in ('val', 'test'):
        assert cfg[f'{split}_evaluator'].ann_file == 'data/my_objects/annotations/val.json'


def test_every_block_is_tested():
    counts = {heading: len(blocks) for heading, blocks in SECTIONS.items() if blocks}
    assert counts == {
        'Objects: a COCO-format folder': 3, 'Scenes: a folder of images and label maps': 3,
        'The hook on a stock model': 1,
        'A folder of images': 1}  # test_folder_configs.py


@pytest.mark.parametrize('block', (OBJECTS[0], SCENES[0]), ids=('objects', 'scenes'))
def test_a_few_lines(block):
    assert len(block.splitlines()) <= 7


@pytest.mark.parametrize('arch', ('swin-t', 'deit-t'))
class TestFullSize:

    def test_objects(self, tmp_path, arch):
        cfg = read(tmp_path, OBJECTS[0], base=f'maskrcnn_scalenet_{arch}_12e_folder.py')
        assert cfg.model.backbone.growth.start == 'identity' and cfg.get('load_from') is None
        assert cfg.model.backbone.init_cfg.checkpoint.startswith('https://')
        model = build_on_meta(cfg)
        assert model.roi_head.bbox_head.fc_cls.out_features == 3
        assert model.roi_head.mask_head.conv_logits.out_channels == 2
        assert parts(trains(model)) == {'neck', 'rpn_head', 'roi_head'}
        assert not model.backbone.patch_embed.projection.weight.requires_grad
        check_objects(cfg)

    def test_scenes(self, tmp_path, arch):
        cfg = read(tmp_path, SCENES[0], base=f'upernet_scalenet_{arch}_8k_folder.py')
        assert cfg.model.backbone.growth.start == 'identity' and cfg.get('load_from') is None
        model = build_on_meta(cfg)
        assert {h.conv_seg.out_channels for h in (model.decode_head, model.auxiliary_head)} == {3}
        assert parts(trains(model)) - {'neck'} == {'decode_head', 'auxiliary_head'}
        for split, name in (('train', 'train'), ('val', 'val'), ('test', 'val')):
            dataset = cfg[f'{split}_dataloader'].dataset
            assert dataset.type == 'BaseSegDataset' and dataset.data_root == 'data/my_scenes'
            assert dataset.data_prefix == dict(
                img_path=f'img_dir/{name}', seg_map_path=f'ann_dir/{name}')
            assert 'reduce_zero_label' not in str(dataset)  # ADE20K's


@pytest.mark.parametrize('arch', ['swin-t', 'deit-t'])
def test_augmented_views_have_the_size_of_the_test(tmp_path, arch):
    cfg = read(tmp_path, SCENES[0], base=f'upernet_scalenet_{arch}_8k_folder.py')
    width, height = cfg.test_dataloader.dataset.pipeline[1].scale
    resize, flips, *_ = cfg.tta_pipeline[1].transforms
    assert [step.scale for step in resize] == [
        (int(width * ratio), int(height * ratio)) for ratio in (.5, .75, 1, 1.25, 1.5, 1.75)]
    assert [flip.prob for flip in flips] == [0, 1]


class TestVariants:

    def test_a_trained_detector(self, tmp_path):
        cfg = read(tmp_path, OBJECTS[0], OBJECTS[2])
        assert cfg.load_from == Config.fromfile(
            CONFIGS / 'maskrcnn_scalenet_swin-t_1x_coco.py').load_from
        assert cfg.model.backbone.init_cfg is None
        model = build_on_meta(cfg)
        assert trains(model) == FINAL | {'roi_head.mask_head.conv_logits'}

    def test_boxes_without_masks(self, tmp_path):
        cfg = read(tmp_path, OBJECTS[1])
        check_objects(cfg)
        assert 'with_mask' not in cfg.pretty_text and cfg.val_evaluator.metric == 'bbox'
        assert cfg.model.backbone.growth.start == 'identity'
        model = build_on_meta(cfg)
        assert model.bbox_head.retina_cls.out_channels == 2 * model.bbox_head.num_anchors
        assert parts(trains(model)) == {'neck', 'bbox_head'}

    def test_a_trained_segmentor(self, tmp_path):
        cfg = read(tmp_path, SCENES[0], SCENES[2])
        assert cfg.load_from == Config.fromfile(
            CONFIGS / 'upernet_scalenet_swin-t_40k_ade20k.py').load_from
        assert cfg.model.backbone.init_cfg is None
        assert trains(build_on_meta(cfg)) == {'decode_head.conv_seg', 'auxiliary_head.conv_seg'}

    def test_pixels_to_ignore(self, tmp_path):
        cfg = read(tmp_path, SCENES[0], SCENES[1])
        heads = cfg.model.decode_head, cfg.model.auxiliary_head
        assert [(h.num_classes, h.ignore_index) for h in heads] == [(11, 11)] * 2
        assert cfg.model.data_preprocessor.seg_pad_val == 11
        assert cfg.val_evaluator.ignore_index == cfg.test_evaluator.ignore_index == 11

    def test_the_hook_on_a_stock_config(self, tmp_path):
        (tmp_path / 'stock.py').write_text(STOCK)
        cfg = Config.fromfile(tmp_path / 'stock.py')
        cfg.model.backbone.init_cfg = None
        with DefaultScope.overwrite_default_scope('mmseg'):
            model = MODELS.build(cfg.model)
        hook = cfg.custom_hooks[0]
        grow_backbone(model.backbone, hook['growth'])
        assert [len(stage.blocks) for stage in model.backbone.stages] == [2, 2, 12, 4]
        apply_freezing(model, hook['freeze'])
        assert all(p.requires_grad for p in model.decode_head.parameters())
        assert not model.backbone.patch_embed.projection.weight.requires_grad


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits')
    make_digit_scenes(root=str(root), tasks=('det', 'seg'), num_train=4, num_val=2)
    return root


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train a config from random weights."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda code, **style: (code, True))

    def train(cfg):
        cfg.work_dir = str(tmp_path / 'work')
        cfg.model.backbone.init_cfg = cfg.load_from = None
        cfg.custom_hooks[0].require_loaded = False
        torch.manual_seed(0)
        runner = Runner.from_cfg(cfg)
        runner.train()
        _, grown, layer_map = next(iter(growth_of(runner.model.backbone)))
        assert len(layer_map.sources) > layer_map.base_depth
        return {k.rpartition('/')[2] for k in runner.message_hub.log_scalars}

    return train


def test_objects_train_and_are_measured(digits, run, tmp_path):
    cfg = read(tmp_path, OBJECTS[0], base='maskrcnn_scalenet_deit-t_12e_folder.py')
    scalars = run(on_digits(shrink(cfg), digits, tmp_path))
    assert {'loss_mask', 'bbox_mAP', 'segm_mAP'} <= scalars


def test_scenes_train_and_are_measured(digits, run, tmp_path):
    names = ('background', *map(str, range(10)))
    block = SCENES[0].replace("('background', 'cat', 'dog')", f'{names}').replace(
        "data_root='data/my_scenes'", f"img_suffix='.png', data_root='{digits}/seg'").replace(
            'num_classes=3', 'num_classes=11')
    cfg = narrow(read(tmp_path, block), (64, 64))
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        for step in loader.dataset.pipeline:
            step.update({k: (64, 64) for k in ('scale', 'crop_size') if k in step})
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    assert {'decode.loss_ce', 'mIoU'} <= run(cfg)
