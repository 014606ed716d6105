"""The speed benchmark: its measures against cases done by hand, its peers, a quick run of all."""
import json
import logging
import math
import re
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from mmengine.logging import MMLogger

from scalenet_mm.growth import adjusted_linears
from scalenet_mm.growth.fast_path import fast_paths

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
def test_ours_equals_plain_modules_on_timm(size, times, dtype, close, fast):
    """Outputs, and the gradients of all norms and adapters, with the same weights.

    The batch is large enough for all kinds of fast paths.
    """
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
        torch.testing.assert_close(*outs, rtol=close, atol=close)
        weights = torch.randn_like(outs[0])
        for out in outs:
            out.backward(weights)
    for mine, other in take_adapters(ours, theirs, lambda p: p.grad):
        assert other.abs().max() > 0
        size = other.abs().max()
        torch.testing.assert_close(mine / size, other / size, rtol=0, atol=close)
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


def test_largest_batch():
    asked = []

    def measured(batch):
        asked.append(batch)
        if batch > 20:
            raise torch.OutOfMemoryError('full')
        return dict(seconds=batch)

    assert gpu.largest_batch(measured) == {4: dict(seconds=4), 8: dict(seconds=8),
                                           16: dict(seconds=16)}
    assert asked == [4, 8, 16, 32]
    assert list(gpu.largest_batch(lambda batch: {}, start=1, limit=4)) == [1, 2, 4]


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


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """A quick run of all sections, without peft, and torch.compile that leaves models as they are:
    compiling takes minutes."""
    folder = tmp_path_factory.mktemp('speed')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'peft', None)
        patch.setattr(models, 'EXTRA', folder / 'nothing')
        patch.setattr(torch, 'compile', lambda function: function)
        speed.main(['--quick', '--rounds', '1', '--out', str(folder), '--only',
                    *speed.SECTIONS, *speed.FURTHER])
    assert MMLogger.get_current_instance().level != logging.ERROR
    assert (folder / 'speed.png').stat().st_size > 10_000
    return json.loads((folder / 'speed.json').read_text())


def test_rows_of_the_reach_table(results):
    rows = [row for section in results['sections'].values() for row in section.get('rows', ())]
    assert all(math.isfinite(row['ratio']) and row['low'] <= row['ratio'] <= row['high']
               for row in rows)
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
        ('building, growing and loading', 'mmpretrain, building and loading', 1.2)}


def test_all_times_are_kept(results):
    assert set(results['sections']) == set(speed.SECTIONS + speed.FURTHER)
    step = results['sections']['step']['times']['DeiT-Small, 4 blocks']
    assert {'ScaleNet', 'ScaleNet, fast paths off', 'mmpretrain, norms only',
            'plain modules on timm', "mmpretrain's LoRAModel", 'ScaleNet with LoRA',
            'ScaleNet, with AdamW'} <= set(step)
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in step.values())
    for key in ('cores', 'threads', 'processor', 'versions', 'dtype'):
        assert results['environment'][key]
    assert results['environment']['versions']['torch'] == torch.__version__.split('+')[0]


def test_nothing_is_kept_past_the_hooks(results):
    for counts in results['sections']['bytes']['bytes'].values():
        assert counts['ScaleNet']['past'] == counts['ScaleNet']['hidden'] == 0
        stock = next(counts[name] for name in counts if name.endswith('trained in full'))
        assert 0 < counts['ScaleNet']['kept'] < stock['kept']


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
    assert any('peft' in line for line in results['left_out'])
    assert 'Left out: peft' in report.as_markdown(results)


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
    (['--only', 'step', '--write-docs'], '--write-docs needs all')])
def test_command_line_errors(words, message, capsys):
    with pytest.raises(SystemExit):
        speed.parse_args(words)
    assert message in capsys.readouterr().err


def test_what_make_bench_installs_is_pinned():
    wanted = [line.strip() for line in (ROOT / 'requirements-bench.txt').read_text().splitlines()
              if line.strip() and not line.startswith('#')]
    pinned = [line.partition('==')[0].replace('_', '-')
              for line in (ROOT / 'constraints.txt').read_text().splitlines()]
    assert 'peft' in wanted
    assert [name for name in wanted if name not in pinned] == []
