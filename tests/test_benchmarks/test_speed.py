"""The speed benchmark: its measures against cases done by hand, its peers, a quick run of all."""
import logging
import math
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from mmengine.logging import MMLogger
from torch._subclasses.fake_tensor import FakeTensorMode

from scalenet_mm.backbones import window_attention
from scalenet_mm.growth import adjusted_linears, fused, products
from scalenet_mm.growth.fast_path import fast_paths, fast_paths_enabled

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = str(ROOT / 'benchmarks')


def load(name):
    sys.path.insert(0, BENCHMARKS)
    try:
        return __import__(name)
    finally:
        sys.path.remove(BENCHMARKS)


measure, models, plain, sections, gpu, report, speed = map(load, (
    '_speed_measure', '_speed_models', '_speed_plain', '_speed_sections', '_speed_gpu',
    '_speed_report', 'speed'))
VIT, SWIN = models.QUICK['DeiT-Small'], models.QUICK['Swin-Tiny']


def let_small_inputs_in(patch):
    """Let the fast paths, oneDNN's products among them, go wherever they can."""
    patch.setattr(fused, 'SMALLEST', 1)
    patch.setattr(products, 'SMALLEST', 1)
    patch.setattr(products, 'onednn_is_faster', products.has_onednn)


def count_calls(patch, owner, name):
    """list: Grows by one with every call of a function."""
    calls, function = [], getattr(owner, name)
    patch.setattr(owner, name, lambda *args: (calls.append(name), function(*args))[1])
    return calls


# --- measures ------------------------------------------------------------------------------------


def test_ratio_is_taken_round_by_round():
    # the second round is slow for both; of the medians alone the ratio would be 4 / 3
    measured = measure.ratio([2., 40., 4., 3.], [1., 20., 2., 3.])
    assert measured == dict(ratio=2., low=pytest.approx(1.75), high=2.)


def test_line_fit():
    fit = measure.line_fit([1, 2, 3], [1, 2, 2])
    assert fit == dict(slope=pytest.approx(0.5), intercept=pytest.approx(2 / 3),
                       r2=pytest.approx(0.75))
    assert measure.line_fit([1, 2, 4], [3, 5, 9])['r2'] == pytest.approx(1.)
    assert measure.line_fit([1, 2, 4], [3, 3, 3])['r2'] == 1.


def test_calls_take_turns_and_the_order_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in 'abc'}
    times = measure.in_turn(calls, rounds=2, warmup=1)
    assert ''.join(order) == 'abccbaabc'
    assert {name: len(t) for name, t in times.items()} == dict(a=2, b=2, c=2)


class Keeping(torch.autograd.Function):
    """Doubles; keeps what it is told to, on a way that it is told."""

    @staticmethod
    def forward(ctx, x, way):
        made = x * 3
        if way == 'saved':
            ctx.save_for_backward(made, made[:1], x)
        elif way == 'attribute':
            ctx.made = made
        elif way == 'cache':
            CACHE.append(made)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, None


CACHE = []


@pytest.mark.parametrize('way, kept, past', [
    ('nothing', 0, 0), ('saved', 400 + 400, 0), ('attribute', 0, 400), ('cache', 0, 400)])
def test_bytes_by_hand(way, kept, past):
    """Of 100 numbers: what is saved counts once, views of it not at all; the rest is found out."""
    x = torch.randn(100, requires_grad=True)
    counts = measure.kept_bytes(nn.Identity(), lambda: [Keeping.apply(x, way)])
    assert counts['kept'] == kept
    assert counts['hidden'] == past
    allocated = measure.allocated_bytes(lambda: [Keeping.apply(x, way)])
    assert allocated - counts['made'] == past
    CACHE.clear()


def test_tensors_without_storage_may_be_about():
    """An export or a compilation elsewhere in the process leaves such tensors behind."""
    with FakeTensorMode():
        fake = torch.empty(3)
    others = [fake, torch._to_functional_tensor(torch.ones(3)), torch.empty(3, device='meta')]
    x = torch.randn(100, requires_grad=True)
    counts = measure.kept_bytes(nn.Identity(), lambda: [Keeping.apply(x, 'saved')])
    assert counts['kept'] == 800 and len(others) == 3


def test_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4, bias=False))
    x = torch.randn(5, 8)
    counts = measure.kept_bytes(model, lambda: [model(x)])
    # the input, the first layer's output, GELU's output
    assert counts['kept'] == 4 * 5 * (8 + 16 + 16)
    assert counts['made'] == 4 * 5 * (16 + 16 + 4)
    model.requires_grad_(False)
    assert measure.kept_bytes(model, lambda: [model(x)])['kept'] == 0


def test_kinds_of_operations():
    assert measure.kind_of('aten::addmm', [[384], [788, 384], [384, 384]], 16) == 'matrix products'
    assert measure.kind_of('aten::mm', [[788, 384], [384, 16]], 16) == "adapters' matrix products"
    assert measure.kind_of('aten::gelu_backward', [], 16) == 'activations'
    assert measure.kind_of('aten::native_layer_norm_backward', [], 16) == 'norms'
    assert measure.kind_of('FusedMLP', [], 16) == 'other'


def test_profile_sees_the_matrix_products():
    x = torch.randn(256, 256)
    kinds = measure.profile_kinds(lambda: (x @ x, x.relu()), rank=16, repeats=2)
    assert {'matrix products', 'activations'} <= set(kinds)
    assert all(seconds > 0 for seconds in kinds.values())


def test_products_of_the_linear_layers():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
    found = []

    def linear(x, weight, bias):
        found.append((tuple(x.shape), tuple(weight.shape), bias is not None))
        return nn.functional.linear(x, weight, bias)

    for product in measure.linear_products(model, lambda: model(torch.randn(7, 3)), linear):
        product()
    assert found == [((7, 3), (5, 3), True), ((7, 5), (3, 5), False),
                     ((7, 5), (2, 5), False), ((7, 2), (5, 2), False)]
    assert not any(m._forward_hooks for m in model.modules())


# --- peers ---------------------------------------------------------------------------------------


def give_values(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)


def pairs_of_blocks(ours, theirs):
    mine = [block for blocks in ours.block_lists for block in blocks]
    return list(zip(mine, plain.plain_blocks(theirs), strict=True))


def linear_names(block):
    """Names of a block's linear layers, qkv to fc2, in our model and in timm's alike ordered."""
    return [name for name, m in block.named_modules() if isinstance(m, nn.Linear)]


def take_adapters(ours, theirs, read):
    """Yield (our tensor, theirs) of every norm and adapter, by ``read`` of a parameter."""
    for mine, other in pairs_of_blocks(ours, theirs):
        norms = [[m for m in block.modules() if isinstance(m, nn.LayerNorm)]
                 for block in (mine, other)]
        for a, b in zip(*norms, strict=True):
            yield from ((read(getattr(a, k)), read(getattr(b, k))) for k in ('weight', 'bias'))
        adapted = [m for m in other.modules() if isinstance(m, plain.AdaptedLinear)]
        for (_, a), b in zip(adjusted_linears(mine), adapted, strict=True):
            yield read(a.adapter_down), read(b.down.weight)
            yield read(a.adapter_up), read(b.up.weight)


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('dtype, close', [(torch.float64, 1e-9), (torch.float32, 2e-4)])
@pytest.mark.parametrize('size, times', [(VIT, 2), (VIT, 3), (SWIN, 2)])
def test_ours_equals_plain_modules_on_timm(size, times, dtype, close, fast, monkeypatch):
    """Outputs, and the gradients of all norms and adapters, with the same weights.

    The batch is large enough for all kinds of fast paths.
    """
    let_small_inputs_in(monkeypatch)
    mlps = count_calls(monkeypatch, fused, 'fused_mlp')
    sorted_maps = count_calls(monkeypatch, window_attention, 'window_order')
    linears = count_calls(monkeypatch, products, 'linear')
    theirs = models.timm_model(size, 1)
    give_values(theirs)
    ours = models.ours(size, times)
    missing = ours.load_state_dict(dict(theirs.state_dict()), strict=False)
    assert not missing.unexpected_keys
    theirs = plain.plain_scalenet(theirs, times, models.RANK)
    give_values(nn.ModuleList([m for block in plain.plain_blocks(theirs)
                               for n, m in block.named_modules()
                               if n.endswith(('down', 'up')) or 'norm' in n]))
    with torch.no_grad():
        for mine, other in take_adapters(ours, theirs, lambda p: p):
            mine.copy_(other)
    for model in (ours, theirs):
        model.to(dtype)
    count = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, theirs)]
    assert count[0] == count[1] > 0

    batch = 16 if size is VIT else 2
    images = torch.randn(batch, 3, size.image, size.image, dtype=dtype)
    with fast_paths(fast):
        outs = [models.features(model, images) for model in (ours, theirs)]
        blocks = sum(map(len, ours.block_lists))
        assert len(mlps) == blocks * fast
        assert len(sorted_maps) == blocks * (fast and size is SWIN)
        assert bool(linears) == fast
        torch.testing.assert_close(*outs, rtol=close, atol=close)
        weights = torch.randn_like(outs[0])
        for out in outs:
            out.backward(weights)
    for mine, other in take_adapters(ours, theirs, lambda p: p.grad):
        assert other.abs().max() > 0
        largest = other.abs().max()
        torch.testing.assert_close(mine / largest, other / largest, rtol=0, atol=close)
    assert all(p.grad is None for p in ours.parameters() if not p.requires_grad)


@pytest.mark.parametrize('size, mmdet', [(VIT, False), (SWIN, False), (SWIN, True)])
def test_peers_have_the_same_function(size, mmdet):
    """Stock of the grown depth, and timm's ungrown, give what ours gives with equal weights."""
    images = torch.randn(1, 3, size.image, size.image)
    ours, stock = models.ours(size, mmdet=mmdet), models.stock(size, mmdet=mmdet)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if 'adapter_up' not in name:
                parameter.normal_(std=0.2)
    models.copy_blocks(ours, stock)
    ours.eval(), stock.eval()
    torch.testing.assert_close(
        models.features(ours, images), models.features(stock, images), rtol=2e-4, atol=2e-4)
    counts = [sum(p.numel() for p in build.parameters()) for build in (
        models.timm_model(size), stock)]
    assert counts[0] == counts[1]
    if not mmdet:
        ungrown, timm_model = models.ours(size, 1, None), models.timm_model(size, 1)
        give_values(timm_model)
        ungrown.load_state_dict(timm_model.state_dict())
        ungrown.eval(), timm_model.eval()
        torch.testing.assert_close(models.features(ungrown, images),
                                   models.features(timm_model, images), rtol=2e-4, atol=2e-4)


def test_what_trains():
    ours, plainly = models.ours(SWIN), models.plain(SWIN)
    trained = [{n: p.numel() for n, p in m.named_parameters() if p.requires_grad}
               for m in (ours, plainly)]
    assert sum(trained[0].values()) == sum(trained[1].values())
    assert all('adapter' in n or 'norm' in n for n in trained[0])
    floor = models.norms_only(models.stock(SWIN))
    names = [n for n, p in floor.named_parameters() if p.requires_grad]
    assert names and all('norm' in n for n in names)
    lora = models.lora_model(VIT)
    shapes = [p.shape for p in lora.parameters() if p.requires_grad]
    assert len(shapes) == 2 * 4 * VIT.depth * 2  # two matrices, four layers, all blocks
    assert all(models.RANK in shape for shape in shapes)


@pytest.mark.parametrize('size', [VIT, SWIN])
def test_peft_is_asked_for_all_linears_of_the_blocks(size, monkeypatch):
    asked = {}
    fake = types.SimpleNamespace(
        LoraConfig=lambda **kwargs: asked.update(kwargs),
        inject_adapter_in_model=lambda config, model: model)
    monkeypatch.setitem(sys.modules, 'peft', fake)
    model = models.peft_lora(size)
    assert asked['r'] == asked['lora_alpha'] == models.RANK
    names = [n for n, m in model.named_modules()
             if isinstance(m, nn.Linear) and re.fullmatch(asked['target_modules'], n)]
    blocks = plain.plain_blocks(model)
    assert len(names) == 4 * len(blocks)
    assert all('blocks' in name for name in names)


def test_peft_is_left_out_with_a_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'peft', None)
    said = []
    bench = sections.Bench(1, quick=True, say=said.append)
    monkeypatch.setattr(models, 'EXTRA', tmp_path)
    path = list(sys.path)
    for _ in range(2):
        assert bench.build("peft's LoRA", lambda: models.peft_lora(VIT)) is None
    assert sys.path == path
    line, = bench.left_out
    assert 'peft is not installed' in line and 'make bench' in line
    assert len(said) == 1


# --- the run -------------------------------------------------------------------------------------


@pytest.mark.parametrize('value, met', [(0.74, 'yes'), (0.76, 'must, not aim'), (0.81, 'no')])
def test_met_or_not(value, met):
    measured = dict(ratio=value, low=value, high=value)
    assert sections.row('m', 'w', 'p', measured, 'step, stock')['met'] == met
    assert sections.row('m', 'w', 'p', measured)['met'] is None


def test_torchs_products_are_graded_too():
    of = dict(ratio=0.7, low=0.7, high=0.7)
    with_native = sections.row('m', 'w', 'p', of, 'step, stock', native=dict(of, ratio=0.9))
    assert (with_native['met'], with_native['native'], with_native['native_met']) == (
        'yes', 0.9, 'no')
    assert report.cells(with_native)[-4:] == ['<= 0.8, aim 0.75', 'yes', '0.900', 'no']
    assert report.cells(sections.row('m', 'w', 'p', of, 'step, stock'))[-2:] == ['', '']


def test_against_a_peer_of_our_own():
    """With torch's products on both sides, if the peer has them; else on ours."""
    times = {'ScaleNet': [1.], 'stock': [2.], 'ScaleNet bare': [0.5]}
    assert 'native' not in sections.against(times, 'ScaleNet', 'stock')
    times.update({f'ScaleNet{sections.NATIVE}': [3.], f'ScaleNet bare{sections.NATIVE}': [1.5]})
    assert sections.against(times, 'ScaleNet', 'stock')['native']['ratio'] == 1.5
    bare = sections.against(times, 'ScaleNet', 'ScaleNet bare')
    assert (bare['measured']['ratio'], bare['native']['ratio']) == (2., 2.)


@pytest.mark.parametrize('holds, asked, last', [
    (20, [4, 8, 16, 32, 24, 20, 22], 20), (31, [4, 8, 16, 32, 24, 28, 30], 30),
    (4, [4, 8, 6, 5], 4), (3, [4], None)])
def test_largest_batch(holds, asked, last):
    """Doubled until it does not fit, and then to an eighth of the last that did."""
    seen = []

    def measured(batch):
        seen.append(batch)
        if batch > holds:
            raise torch.OutOfMemoryError('full')
        return dict(seconds=batch)

    found = gpu.largest_batch(measured)
    assert seen == asked
    assert found == {batch: dict(seconds=batch) for batch in sorted(asked) if batch <= holds}
    assert max(found, default=None) == last


def test_largest_batch_stops_at_the_limit():
    assert list(gpu.largest_batch(lambda batch: {}, start=1, limit=4)) == [1, 2, 4]


def test_largest_batches_are_compared(monkeypatch):
    """On a GPU: the default, with the fast paths off, beside fast paths on, and the stock model."""
    bench = sections.Bench(1, device='cuda', say=lambda line: None)
    monkeypatch.setattr(bench, 'build', lambda name, build: name)
    limits = {('ScaleNet', False): 11, ('ScaleNet', True): 15,
              ('mmpretrain, trained in full', False): 7}

    def measured(bench, model, size, batch):
        if batch > limits[model, fast_paths_enabled('cuda')]:
            raise torch.OutOfMemoryError('full')
        return dict(seconds=batch * 1., images_per_second=1., peak=batch * 2**20)

    monkeypatch.setattr(gpu, 'measure_batch', measured)
    rows = [row for row in gpu.batches(bench)['rows'] if row['what'] == 'largest batch']
    assert [(row['peer'], row['ratio']) for row in rows[:2]] == [
        ("ScaleNet, fast_paths('all')", 11 / 15), ('mmpretrain, trained in full', 11 / 7)]


def test_no_products_of_onednn_on_a_gpu(monkeypatch):
    monkeypatch.setattr(products, 'onednn_is_faster', lambda: True)
    for device, names in (('cpu', {'ScaleNet, fast paths off', f'ScaleNet{sections.NATIVE}'}),
                          ('cuda', {"ScaleNet, fast_paths('all')"})):
        bench = sections.Bench(1, device=device)
        assert set(sections.our_twins(bench, lambda: None)) == names


def test_a_step_under_autocast():
    bench = sections.Bench(1, 2, quick=True, amp=True)
    model = bench.build('ours', lambda: models.ours(VIT))
    seen = []
    model.layers[0].attn.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    step = bench.step(model, bench.images(VIT.image))
    step()
    step()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad.isfinite().all() for grad in grads) and grads
    assert set(seen) == {torch.bfloat16}
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    bench = sections.Bench(1, quick=True, say=lambda line: None)
    assert sections.compiled(bench)['rows'] == []
    assert bench.left_out == ['torch.compile: there is no compiler no-such-compiler']


def test_a_peer_that_does_not_compile(monkeypatch):
    def compile_ours(function):
        model, = function.__defaults__

        def run(images):
            if not type(model).__name__.startswith('ScaleNet'):
                raise RuntimeError('C++ error')
            return function(images)

        return run

    monkeypatch.setattr(torch, 'compile', compile_ours)
    monkeypatch.setenv('CXX', sys.executable)  # a compiler is not called
    bench = sections.Bench(1, 1, quick=True, say=lambda line: None)
    rows = sections.compiled(bench)['rows']
    failed = [row['failed'] for row in rows]
    assert failed == [None, *['does not compile: RuntimeError'] * 2, None] * 2
    assert [row['peer'] for row in rows[:4]] == [
        'ScaleNet, eager', 'mmpretrain, trained in full, eager',
        'mmpretrain, trained in full, compiled', 'mmpretrain, trained in full, eager']
    section = dict(rows=rows, times={}, environment=speed.environment(
        speed.parse_args(['--quick'])), left_out=[])
    page = report.as_markdown(dict(sections=dict(compile=section)))
    assert page.count('| does not compile: RuntimeError |') == 4


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A quick run of all sections, without peft, and torch.compile that leaves models as they are:
    compiling takes minutes."""
    folder = tmp_path_factory.mktemp('speed')
    with pytest.MonkeyPatch.context() as patch:
        let_small_inputs_in(patch)
        patch.setitem(sys.modules, 'peft', None)
        patch.setattr(models, 'EXTRA', folder / 'nothing')
        patch.setattr(torch, 'compile', lambda function: function)
        speed.main(['--quick', '--rounds', '1', '--out', str(folder), '--only',
                    *speed.SECTIONS, *speed.FURTHER])
    assert MMLogger.get_current_instance().level != logging.ERROR
    assert (folder / 'speed.png').stat().st_size > 10_000
    return folder


@pytest.fixture
def results(folder):
    return speed.last_results(folder)


def test_rows_of_the_reach_table(results):
    rows = [row for section in results['sections'].values() for row in section.get('rows', ())]
    assert all(math.isfinite(row['ratio']) and row['low'] <= row['ratio'] <= row['high']
               for row in rows)
    for row in rows:
        timed = row['met'] and row['what'] in ('training step', 'forward')
        assert ('native_met' in row) == bool(timed and products.has_onednn())
    reach = {(row['what'], row['peer'], row['must']) for row in rows if row['met']}
    assert reach == {
        ('training step', 'mmpretrain, trained in full', 0.8),
        ('training step', 'mmdet, trained in full', 0.8),
        ('training step', 'timm, trained in full', 0.8),
        ('training step', 'mmdet, trained in full', 0.75),  # Mask R-CNN
        ('forward', 'timm', 1.06), ('forward', 'timm', 1.02), ('forward', 'mmdet', 0.9),
        ('forward', 'ScaleNet without adapters', 1.06),
        ('forward', 'ScaleNet without adapters', 1.09),
        ('bytes kept', 'mmpretrain, trained in full', 0.75),
        ('bytes kept', 'mmdet, trained in full', 0.75),
        ('building, growing and loading', 'mmpretrain by init_cfg', 1.2),
        ('building, growing and loading', 'mmpretrain by torch.load', 1.2)}


def test_all_times_are_kept(results):
    assert set(results['sections']) == set(speed.SECTIONS + speed.FURTHER)
    step = results['sections']['step']['times']['DeiT-Small, 4 blocks']
    assert {'ScaleNet', 'ScaleNet, fast paths off', 'mmpretrain, norms only',
            'plain modules on timm', "mmpretrain's LoRAModel", 'ScaleNet with LoRA',
            'ScaleNet, with AdamW'} <= set(step)
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in step.values())
    for section in results['sections'].values():
        for key in ('cores', 'threads', 'processor', 'versions', 'dtype'):
            assert section['environment'][key]
        assert section['environment']['versions']['torch'] == torch.__version__.split('+')[0]


def test_nothing_is_kept_past_the_hooks(results):
    for counts in results['sections']['bytes']['bytes'].values():
        assert counts['ScaleNet']['past'] == counts['ScaleNet']['hidden'] == 0
        stock = next(counts[name] for name in counts if name.endswith('trained in full'))
        assert 0 < counts['ScaleNet']['kept'] < stock['kept']
        assert counts['ScaleNet']['kept'] < counts['ScaleNet, fast paths off']['kept']


def test_both_detectors_do_the_same_work(results):
    ours, stock = results['sections']['maskrcnn']['losses'].values()
    assert ours == pytest.approx(stock, rel=1e-4)


def test_cost_and_profile(results):
    cost, profile = (results['sections'][name] for name in ('cost', 'profile'))
    assert [m['blocks'] for m in cost['by_times'].values()] == [2, 4, 6, 8]
    assert cost['fits']['times']['bytes']['r2'] > 0.999
    assert cost['fits']['times']['step']['ratios'][0] == 1
    whole, floor = (profile['times'][name][0] for name in ('whole step', 'matrix products alone'))
    assert profile['to_products']['ratio'] == pytest.approx(whole / floor)
    assert profile['kinds']['matrix products'] > 0


def test_peft_is_named_as_left_out(results):
    for name in ('step', 'bytes'):
        line, = results['sections'][name]['left_out']
        assert 'peft' in line
    assert report.as_markdown(results).count('Left out: peft') == 1


def test_a_section_stays_until_it_runs_again(folder, results, tmp_path, monkeypatch):
    page = tmp_path / 'docs' / 'performance.md'
    (page.parent / 'images').mkdir(parents=True)
    page.write_text(f'{report.BEGIN}\n{report.END}\n')
    out = tmp_path / 'out'
    shutil.copytree(folder, out)
    again = dict(rows=[sections.row('m', 'w', 'p', dict(ratio=7.125, low=7., high=8.))], times={})
    monkeypatch.setattr(sections, 'compiled', lambda bench: again)
    monkeypatch.setattr(speed, 'commit', lambda: 'fedcba')
    monkeypatch.setattr(speed, 'ROOT', tmp_path)
    after = speed.main(['--rounds', '1', '--out', str(out), '--only', 'compile', '--write-docs'])
    assert after == speed.last_results(out)
    now = after['sections'].pop('compile')
    assert now['rows'] == again['rows'] and now['environment']['commit'] == 'fedcba'
    before = results['sections'].pop('compile')
    assert after == results and before['rows'] != now['rows']

    text = page.read_text()
    assert '| m | w | p | 7.125 |' in text and '### Training step' in text
    headers = [line for line in text.splitlines() if line.startswith('- ')]
    assert [line.partition(':')[0] for line in headers] == [
        '- ' + ', '.join(title for name, title in report.TITLES.items() if name != 'compile'),
        '- torch.compile']
    assert ['fedcba' in line for line in headers] == [False, True]


def test_what_was_measured_outlives_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, 'building', lambda bench: dict(rows=[], times={}))
    monkeypatch.setattr(sections, 'cost', lambda bench: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        speed.main(['--quick', '--out', str(tmp_path), '--only', 'building', 'cost'])
    assert list(speed.last_results(tmp_path)['sections']) == ['building']


def test_the_page_keeps_what_is_written_by_hand(results, tmp_path):
    (tmp_path / 'images').mkdir()
    page = tmp_path / 'performance.md'
    page.write_text(f'before\n{report.BEGIN}\nold\n{report.END}\nafter\n')
    for _ in range(2):
        report.write_docs(results, tmp_path)
    text = page.read_text()
    assert text.startswith(f'before\n{report.BEGIN}\n') and text.endswith(f'{report.END}\nafter\n')
    assert 'old' not in text and text.count('### What is to be reached') == 1
    assert (tmp_path / report.PICTURE).is_file()
    page.write_text('no markers')
    with pytest.raises(ValueError, match='measured: begin'):
        report.write_docs(results, tmp_path)


def test_the_page_in_docs_has_its_markers():
    text = (ROOT / 'docs' / 'performance.md').read_text()
    assert text.index(report.BEGIN) < text.index(report.END)


@pytest.mark.parametrize('words, message', [
    (['--rounds', '0'], 'at least 1'), (['--only', 'speed'], 'invalid choice'),
    (['--only', 'step', '--write-docs'], '--write-docs also needs forward, bytes, maskrcnn'),
    (['--quick', '--write-docs'], 'models of full size'),
    (['--device', 'cuda', '--write-docs'], 'on CPU')])
def test_command_line_errors(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        speed.parse_args([*words, '--out', str(tmp_path)])
    assert message in capsys.readouterr().err


def test_what_make_bench_installs_is_pinned():
    wanted = [line.strip() for line in (ROOT / 'requirements-bench.txt').read_text().splitlines()
              if line.strip() and not line.startswith('#')]
    pinned = [line.partition('==')[0].replace('_', '-')
              for line in (ROOT / 'constraints.txt').read_text().splitlines()]
    assert 'peft' in wanted
    assert [name for name in wanted if name not in pinned] == []
