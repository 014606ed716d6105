"""Every ImageNet config in reduced size: its map, one forward and one backward pass."""
import random
import re

import pytest
import torch
from imagenet_toys import ARCHS, FILES, SWIN_DEPTHS, build, read, shrink
from mmpretrain.structures import DataSample

from scalenet_mm.growth import apply_freezing, growth_of

INCREMENTS = ('adapter_down', 'adapter_up', 'lora_down', 'lora_up', 'gain')
#: Names of Swin's and the ViT's norms, which are 'norm1', 'ln2', and of 'downsample.norm'.
NORM = re.compile(r'.*\.(norm\d?|ln\d)\.(weight|bias)$')
NEW_BLOCK = re.compile(r'.*\.(\d+_r1|new1)\.')
BASELINES = ('random', 'stack', 'interpolate', 'swa')


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    """Threads would do nothing but wait for each other: the tensors are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trains(name, parameter):
    """Whether a parameter of a config's model trains, by the paper's rules."""
    if name.startswith(('deit-t', 'deit-s')) or '-24' in name:
        return True
    if name.endswith(BASELINES) and NEW_BLOCK.match(parameter):
        return True
    return parameter.startswith('head.') or parameter.endswith(INCREMENTS) \
        or NORM.match(parameter) is not None


def sources(name):
    """The source of every block of each list, by the tables' rows."""
    arch, _, variant = name[:6], name[6:7], name[7:]
    rng = random.Random(0)
    if arch.startswith('deit'):
        depth = 24 if variant.startswith('24') else 12
        blocks = list(range(depth))
        first, last = (int(n) - 1 for n in re.match(r'blocks(\d+)-(\d+)|', variant).groups()) \
            if variant.startswith('blocks') else (0, depth - 1)
        times = 3 if variant == 'times3' else 2
        maps = {
            'random': blocks + [(), ()], 'stack': blocks + [0, 1],
            'interpolate': sorted(blocks + [3, 7]),
            'swa': blocks + [average(rng.sample(range(12), 2)) for _ in range(2)],
        } if arch == 'deit-t' else {
            'random': blocks + [()], 'stack': blocks + [0], 'interpolate': sorted(blocks + [5]),
            'swa': blocks + [average(rng.sample(range(12), 2))],
        }
        maps.update(stacked=blocks * 2)
        if variant in maps:
            return [maps[variant]]
        if variant in ('ungrown', 'lora', 'adapter') or variant.startswith('24'):
            return [blocks]
        return [[b for b in blocks for _ in range(times if first <= b <= last else 1)]]
    stages = [list(range(depth)) for depth in SWIN_DEPTHS[arch[-1]]]
    third = stages[2]
    middle = 2 if arch == 'swin-t' else 8
    maps = {
        'random': third + [()], 'stack': third + [0], 'interpolate': sorted(third + [middle]),
        'swa': third + [average(rng.sample(third, 2))],
    }
    if variant in maps:
        stages[2] = maps[variant]
    elif variant == 'interpolated':
        stages[3] = [0, 0, 1, 1]
    elif variant not in ('ungrown', 'lora', 'adapter'):
        grown = {'stage1': (0, ), 'stage2': (1, ), 'stage3': (2, ), 'all': (0, 1, 2, 3)}
        for i in grown.get(variant, (3, )):
            stages[i] *= 3 if variant == 'times3' else 2
    return stages


def average(drawn):
    return tuple((block, 1 / len(drawn)) for block in drawn)


@pytest.mark.parametrize('name', sorted(FILES))
def test_trains_what_it_should(name):
    cfg = read(name)
    size = shrink(cfg, name)
    torch.manual_seed(0)
    model = build(cfg)
    assert len(cfg.custom_hooks) == 1 and cfg.custom_hooks[0].type == 'AdapterInjectionHook'
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    assert [list(m.sources) for _, _, m in growth_of(model.backbone)] == sources(name)

    images = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    data = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), training=True)
    # mixup or cutmix made soft labels
    assert all(s.gt_score.shape == (5, ) for s in data['data_samples'])
    loss = model.train()(**data, mode='loss')['loss']
    assert torch.isfinite(loss)
    loss.backward()
    for parameter, p in model.named_parameters():
        expected = trains(name, parameter)
        assert p.requires_grad == expected, parameter
        assert (p.grad is not None) == expected, parameter
        assert p.grad is None or torch.isfinite(p.grad).all(), parameter
    assert any(p.grad.any() for _, p in model.backbone.named_parameters() if p.grad is not None)


@pytest.mark.parametrize('arch', ARCHS)
def test_starts(arch):
    """The identity start is the pretrained model to the bit; split halves both gains."""
    torch.manual_seed(0)
    cfg = read(f'{arch}-ungrown')
    size = shrink(cfg, arch)
    plain = build(cfg).eval()
    images = torch.randn(2, 3, size, size)
    outs = {}
    for variant in ('', '-identity', '-split'):
        cfg = read(f'{arch}{variant}')
        shrink(cfg, arch)
        model = build(cfg).eval()
        model.load_state_dict(plain.state_dict(), strict=False)
        with torch.no_grad():
            outs[variant] = model(images, mode='tensor')
        gains = {round(float(v), 6) for n, p in model.named_parameters() if n.endswith('gain')
                 for v in p.detach().unique()}
        assert gains == {'': set(), '-identity': {0., 1.}, '-split': {0.5}}[variant]
    with torch.no_grad():
        pretrained = plain(images, mode='tensor')
    assert torch.equal(outs['-identity'], pretrained)
    assert not torch.allclose(outs[''], pretrained)
    assert not torch.allclose(outs['-split'], pretrained)
