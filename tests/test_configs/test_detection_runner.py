"""Detection configs through the Runner and the tools: narrow models, digit scenes."""
import cv2
import pytest
import torch
from detection_toys import build, on_digits, read, save_ungrown, shrink
from mmengine.runner import Runner

from scalenet_mm.datasets import make_digit_scenes
from scalenet_mm.engine import test as run_test
from scalenet_mm.growth import growth_of

#: One of each family.
FAMILIES = [
    'maskrcnn_scalenet_swin-t_1x',
    'maskrcnn_scalenet_swin-t_in1k-pre_ms-crop-3x',
    'maskrcnn_scalenet_deit-t_in1k-pre_1x',
    'cascade-maskrcnn_scalenet_swin-t_1x',
    'retinanet_scalenet_swin-t_1x',
    'dino_scalenet_swin-l_12e',
    'mask2former_scalenet_swin-t_50e',
]


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes') / 'digits'
    make_digit_scenes(root=str(root), tasks=('det', ), num_train=4, num_val=2)
    return root


@pytest.mark.parametrize('name', FAMILIES)
def test_trains_and_evaluates(name, scenes, tmp_path):
    cfg = on_digits(shrink(read(name)), scenes, tmp_path / 'work')
    if cfg.model.type == 'DINO':
        cfg.model.backbone.depths = [1, 1, 2, 2]
    # a trained detector of the same classes, or a file of which the backbone alone is read
    file = save_ungrown(cfg, tmp_path / 'ungrown.pth')
    if read(name).load_from:
        cfg.load_from = file
    else:
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=file)

    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    metrics = ['bbox'] + ['segm'] * ('mask' in name)
    for metric in metrics:
        value = runner.message_hub.get_scalar(f'val/coco/{metric}_mAP').current()
        assert 0 <= value <= 1

    model, given = runner.model, torch.load(file, weights_only=True)['state_dict']
    state = model.state_dict()
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) > 20
    assert all(torch.equal(state[n], given[n]) for n in frozen)
    assert any(not n.startswith('backbone.') for n in frozen) == bool(cfg.load_from)
    # adapters start at zero; a warm-up's first steps are too small to show in other tensors
    ups = {n: p for n, p in model.named_parameters() if n.endswith('adapter_up')}
    assert any('_r1.' in n for n in ups)
    moved = [n for n, p in ups.items() if p.abs().sum() > 0]
    assert len(moved) > 0.8 * len(ups)  # drop path leaves some blocks out
    assert sum(len(blocks) for _, blocks, _ in growth_of(model.backbone)) == len(ups) / 2


class TestTools:
    """tools/test.py CONFIG CHECKPOINT --show-dir DIR, --tta."""

    @pytest.fixture
    def command(self, request, scenes, tmp_path):
        """Words of the command for a model that is sure of one class wherever it looks."""
        cfg = on_digits(shrink(read(request.param)), scenes, tmp_path / 'work')
        torch.manual_seed(0)
        model = build(cfg)
        model.init_weights()
        name = 'roi_head.bbox_head.fc_cls' if 'maskrcnn' in request.param else (
            'bbox_head.retina_cls')
        torch.nn.init.constant_(model.get_submodule(name).bias[3:4], 10.)
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'model.pth')
        cfg.dump(tmp_path / 'config.py')
        return [str(tmp_path / 'config.py'), str(tmp_path / 'model.pth')], (
            ['bbox', 'segm'] if 'maskrcnn' in request.param else ['bbox'])

    @pytest.mark.parametrize('command', [
        'maskrcnn_scalenet_swin-t_1x', 'maskrcnn_scalenet_deit-t_in1k-pre_1x',
        'retinanet_scalenet_swin-t_1x'], indirect=True)
    def test_pictures(self, command, scenes, tmp_path):
        argv, metrics = command
        images = sorted((scenes / 'det' / 'val').glob('*.png'))
        truths = []
        for tta in ((), ('--tta', )):
            folder = tmp_path / f'pictures{len(tta)}'
            scores = run_test([*argv, '--show-dir', str(folder), *tta])
            for metric in metrics:
                assert 0 <= scores[f'coco/{metric}_mAP'] <= 1
            pictures = sorted(folder.rglob('*.png'))
            assert [p.name for p in pictures] == [p.name for p in images] and len(images) == 2
            truths.append([self.drawn(*paths)[0] for paths in zip(images, pictures)])
        # boxes and masks of the truth stay where they are (their colours vary a little) when the
        # image is flipped
        assert all((a != b).mean() < 0.01 for a, b in zip(*truths))

    @staticmethod
    def drawn(image, picture):
        """list: Where truth and prediction, side by side, have something drawn on the image."""
        image, picture = cv2.imread(str(image)), cv2.imread(str(picture))
        height, width = image.shape[:2]
        assert picture.shape == (height, 2 * width, 3)
        halves = picture[:, :width], picture[:, width:]
        assert (halves[0] != halves[1]).any()
        drawn = [(half != image).any(axis=-1) for half in halves]
        assert all(0.01 < where.mean() < 0.99 for where in drawn)
        return drawn
