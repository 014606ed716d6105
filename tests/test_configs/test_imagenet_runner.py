"""ImageNet configs through the Runner: narrow models, the configs' own data sets and pipelines."""
import math

import pytest
import torch
from imagenet_toys import make_photos, narrow, official, on_photos, read
from mmengine.hooks import Hook
from mmengine.runner import Runner

from scalenet_mm import CheckpointError

#: One of each family.
FAMILIES = ['deit-b', 'swin-t', 'deit-s-random', 'swin-t-stack', 'swin-t-random', 'swin-b-lora',
            'deit-t-identity', 'swin-t-split', 'deit-t-ungrown', 'deit-b-blocks1-3',
            'swin-b-times3', 'deit-b-stacked', 'deit-b-lora8', 'deit-s-dp03', 'deit-s-24']


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """Four photos of noise in the layout of ImageNet."""
    return make_photos(tmp_path_factory.mktemp('imagenet'))


class Recorder(Hook):
    """Keep the weights that training starts from, and the rates of its iterations."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.before = {k: v.clone() for k, v in runner.model.state_dict().items()}
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])


def run(name, imagenet, tmp_path, epochs=2, weights=None):
    cfg = on_photos(narrow(read(name), name), imagenet, tmp_path / 'work', epochs)
    if weights is not None:
        cfg.load_from = str(tmp_path / 'official.pth')
        torch.save(weights, cfg.load_from)
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


@pytest.mark.parametrize('name', FAMILIES)
def test_trains_and_validates(name, imagenet, tmp_path):
    scratch = '-24' in name
    weights = None if scratch else official(name)
    runner, recorder = run(name, imagenet, tmp_path, epochs=6 if scratch else 2, weights=weights)

    scores = runner.message_hub.log_scalars
    assert 'val/accuracy/top1' in scores and 'val/accuracy/top5' in scores
    assert math.isfinite(runner.message_hub.get_scalar('train/loss').current())
    assert list((tmp_path / 'work').glob('best_accuracy_top1_epoch_*.pth'))

    # the rates: a cosine over all the iterations; from scratch behind five epochs of warm-up
    if scratch:
        warmup = [1e-3 * (1e-3 + (1 - 1e-3) * i / 9) for i in range(10)]
        expected = warmup + [1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * i / 2)) / 2
                             for i in range(2)]
    else:
        expected = [2e-6 + (2e-4 - 2e-6) * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]
    assert recorder.rates == pytest.approx(expected)

    after = runner.model.state_dict()
    moved = {k for k in after if not torch.equal(after[k], recorder.before[k])}
    trained = {k for k, p in runner.model.named_parameters() if p.requires_grad}
    assert moved and moved <= trained
    assert any(k.startswith('head.') for k in moved)
    assert any(k.startswith('backbone.') for k in moved)
    if scratch:
        return

    # the official file's tensors are where they belong, classifier included
    start, given = recorder.before, weights['model']
    head = 'head.layers.head' if name.startswith('deit') else 'head.fc'
    assert torch.equal(start[f'{head}.weight'], given['head.weight'])
    first, qkv = ('layers.0', 'blocks.0.attn.qkv') if name.startswith('deit') else (
        'stages.0.blocks.0', 'layers.0.blocks.0.attn.qkv')
    part = 'attn' if name.startswith('deit') else 'attn.w_msa'
    assert torch.equal(start[f'backbone.{first}.{part}.qkv.weight'], given[f'{qkv}.weight'])
    lost = {key for key, value in given.items()
            if not any(value.shape == s.shape and torch.equal(value, s) for s in start.values())}
    # its mergings of patches have another order of channels
    assert lost == {key for key in given if '.downsample.' in key}
    for key, value in start.items():
        if key.endswith(('adapter_up', 'lora_up')):
            assert not value.any(), key


@pytest.mark.parametrize('name, new, sources', [
    ('swin-t-stack', 'stages.2.blocks.0_r1', ('layers.2.blocks.0', )),
    ('swin-t-swa', 'stages.2.blocks.new1', ('layers.2.blocks.3', 'layers.2.blocks.5')),
    ('deit-s-interpolate', 'layers.5_r1', ('blocks.5', )),
    ('deit-t-swa', 'layers.new2', ('blocks.0', 'blocks.4')),
])
def test_new_blocks_come_from_what_was_loaded(name, new, sources, imagenet, tmp_path):
    """... and not from the values that were drawn before."""
    weights = official(name)
    _, recorder = run(name, imagenet, tmp_path, epochs=1, weights=weights)
    given = [weights['model'][f'{source}.mlp.fc1.weight'] for source in sources]
    start = recorder.before[f'backbone.{new}.ffn.layers.0.0.weight']
    assert torch.allclose(start, sum(given) / len(given))


def test_frozen_and_not_loaded_is_refused(imagenet, tmp_path):
    """Without the official weights the larger models would stay random."""
    cfg = narrow(read('deit-b'), 'deit-b')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, batch_size=2)
        cfg[f'{split}_dataloader'].dataset.data_root = str(imagenet)
    cfg.update(load_from=None, work_dir=str(tmp_path))
    with pytest.raises(CheckpointError, match='came from no checkpoint'):
        Runner.from_cfg(cfg).train()
