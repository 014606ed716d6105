"""The sections of the speed benchmark; each builds its models, measures, and frees them."""
import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import _speed_models as models
import torch
from _speed_measure import (
    allocated_bytes,
    in_turn,
    kept_bytes,
    line_fit,
    linear_products,
    profile_kinds,
    ratio,
)

from scalenet_mm.growth import products
from scalenet_mm.growth.fast_path import fast_paths

#: What is to be reached: (must, aim).
REACH = {
    'step, stock': (0.80, 0.75),
    'step, timm': (0.80, 0.76),
    'forward, timm, vit': (1.06, 1.06),
    'forward, timm, swin': (1.02, 1.02),
    'forward, ungrown': (0.90, 0.90),
    'bytes': (0.75, 0.75),
    'mask r-cnn': (0.75, 0.75),
    'building': (1.2, 1.2),
    'adapters, vit': (1.06, 1.06),
    'adapters, swin': (1.09, 1.09),
}
OURS = 'ScaleNet'
NATIVE = ", torch's matrix products"


@dataclass
class Bench:
    """What all sections are told.

    Args:
        rounds (int): Rounds of a step or a forward pass.
        batch (int): Images of a batch. Defaults to 4.
        quick (bool): Whether models are tiny. Defaults to False.
        device (str): 'cpu' or 'cuda'. Defaults to 'cpu'.
        amp (bool): Whether to run under autocast in bfloat16. Defaults to False.
        say (Callable): Prints a line of progress. Defaults to print.
        left_out (list[str]): Peers that could not run, and why; filled by the sections.
    """
    rounds: int
    batch: int = 4
    quick: bool = False
    device: str = 'cpu'
    amp: bool = False
    say: Callable = print
    left_out: list = field(default_factory=list)

    def size(self, size):
        """ViTSize | SwinSize: A size, or the tiny one in its place."""
        return models.QUICK[size.title] if self.quick else size

    def leave_out(self, what, why):
        """Note, once, what is not measured."""
        line = f'{what}: {why}'
        if line not in self.left_out:
            self.left_out.append(line)
            self.say(f'  left out: {line}')

    def half(self):
        """int: Rounds of what takes longer."""
        return min(self.rounds, max(3, self.rounds // 2))

    def images(self, image, batch=None):
        """torch.Tensor: The same images for the same shape."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch or self.batch, 3, image, image)
        return torch.randn(shape, generator=generator).to(self.device)

    def autocast(self):
        """The context of every forward pass."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.amp)

    def build(self, title, build):
        """nn.Module | None: A model in train mode; None, and a line that says why, if left out."""
        torch.manual_seed(0)
        try:
            model = build().to(self.device)
        except models.Unavailable as error:
            self.leave_out(title, error)
            return None
        model.train()  # some of the toolboxes' return nothing here
        return model

    def times(self, title, calls, rounds=None, warmup=2):
        """dict[str, list[float]]: Seconds of calls in turn, with a line of progress."""
        times = in_turn(calls, rounds or self.rounds, 1 if self.quick else warmup)
        medians = ', '.join(f'{name} {sorted(t)[len(t) // 2] * 1e3:.0f}'
                            for name, t in times.items())
        self.say(f'  {title} (ms): {medians}')
        return times

    def step(self, model, images, optimizer=None):
        """Callable: A training step of a backbone: forward and backward, and AdamW's if given.

        The loss is the sum of the features times fixed random numbers.
        """
        with torch.no_grad(), self.autocast():
            shape = models.features(model, images).shape
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)

        def run():
            model.zero_grad(set_to_none=True)
            with self.autocast():
                out = models.features(model, images)
            out.backward(weights.to(out.dtype))
            if optimizer is not None:
                optimizer.step()

        return run

    def forward(self, model, images):
        """Callable: A forward pass in eval mode without gradients."""
        model.eval()

        def run():
            with torch.no_grad(), self.autocast():
                return models.features(model, images)

        return run


def within(context: Callable, call: Callable) -> Callable:
    """Callable: The same call in a context that is made anew each time."""

    def run(*args):
        with context():
            return call(*args)

    return run


def other_form(device) -> tuple:
    """tuple[str, Callable]: What is not the default: fast paths off, on a GPU on; its context."""
    if device == 'cuda':
        return f"{OURS}, fast_paths('all')", lambda: fast_paths('all')
    return f'{OURS}, fast paths off', lambda: fast_paths(False)


def natively(call: Callable) -> Callable:
    """Callable: The same with all matrix products left to torch."""
    return within(lambda: products.products('native'), call)


def native_twins(bench, calls) -> dict:
    """dict[str, Callable]: Calls of ours with torch's products, where the default is others."""
    if bench.device == 'cuda' or not products.onednn_is_faster():
        return {}
    return {name + NATIVE: natively(call) for name, call in calls.items()
            if name.startswith(OURS)}


def our_twins(bench, call) -> dict:
    """dict[str, Callable]: A call of ours with the switch turned, and with torch's products."""
    name, context = other_form(bench.device)
    return {name: within(context, call), **native_twins(bench, {OURS: call})}


def grade(value, must, aim) -> str:
    """str: Whether a ratio is what it is to be."""
    return 'yes' if value <= aim else 'must, not aim' if value <= must else 'no'


def row(model, what, peer, measured, reach=None, native=None, **more) -> dict:
    """dict: A row of the tables: a ratio, what it is to be, and whether it is that.

    ``measured`` is what :func:`ratio` returns; None stands for a peer that does not run. ``native``
    is the same with torch's own matrix products on our side.
    """
    measured = measured or dict(ratio=None, low=None, high=None)
    found = dict(model=model, what=what, peer=peer, **measured, must=None, aim=None, met=None)
    if reach:
        must, aim = REACH[reach]
        found.update(must=must, aim=aim, met=grade(measured['ratio'], must, aim))
        if native:
            found.update(native=native['ratio'], native_met=grade(native['ratio'], must, aim))
    return {**found, **more}


def against(times, us, peer) -> dict:
    """dict: What a row says of our call and a peer's; ``native`` if that was timed as well.

    A peer that is our own code gets torch's products there, too.
    """
    found = dict(measured=ratio(times[us], times[peer]))
    if us + NATIVE in times:
        found['native'] = ratio(times[us + NATIVE], times.get(peer + NATIVE, times[peer]))
    return found


def stock_title(size, mmdet):
    """str: The name of the toolbox's own backbone."""
    return ('mmdet' if mmdet else 'mmpretrain') + ', trained in full'


def step_peers(size, mmdet=False) -> dict:
    """dict[str, tuple[Callable, str | None]]: What our training step is compared with."""
    toolbox = 'mmdet' if mmdet else 'mmpretrain'
    peers = {
        stock_title(size, mmdet): (lambda: models.stock(size, mmdet=mmdet), 'step, stock'),
        f'{toolbox}, norms only': (
            lambda: models.norms_only(models.stock(size, mmdet=mmdet)), None),
    }
    if not mmdet:
        peers.update({
            'timm, trained in full': (lambda: models.timm_model(size), 'step, timm'),
            'plain modules on timm': (lambda: models.plain(size), None),
            "peft's LoRA on timm": (lambda: models.peft_lora(size), None),
            "mmpretrain's LoRAModel": (lambda: models.lora_model(size), None),
            f'{OURS} with LoRA': (
                lambda: models.ours(size, adjustment=dict(type='LoRA')), None),
        })
    return peers


#: The models of step and bytes; a Swin by mmdet's arguments has mmdet's meaning of a small map.
CASES = ((models.DEIT_SMALL, False), (models.SWIN_TINY, False), (models.SWIN_TINY, True))


def case_title(size, mmdet):
    """str: What a case is called in tables."""
    return size.grown(2) + (", mmdet's" if mmdet else '')


def step(bench: Bench) -> dict:
    """Training steps."""
    rows, all_times = [], {}
    for size, mmdet in CASES:
        size = bench.size(size)
        title, stock = case_title(size, mmdet), stock_title(size, mmdet)
        images = bench.images(size.image)
        built = {OURS: bench.build(OURS, lambda: models.ours(size, mmdet=mmdet))}
        peers = step_peers(size, mmdet)
        built.update((name, bench.build(name, build)) for name, (build, _) in peers.items())
        built = {name: model for name, model in built.items() if model is not None}
        calls = {name: bench.step(model, images) for name, model in built.items()}
        calls.update(our_twins(bench, calls[OURS]))
        if size.family == 'vit':
            for name in (OURS, stock):
                trained = [p for p in built[name].parameters() if p.requires_grad]
                calls[f'{name}, with AdamW'] = bench.step(
                    built[name], images, torch.optim.AdamW(trained, lr=0.))
        times = all_times[title] = bench.times(title, calls)
        for name in times:
            if name == OURS or name == f'{OURS}, with AdamW':
                continue
            us = OURS + ', with AdamW' * name.endswith('with AdamW')
            rows.append(row(title, 'training step', name, **against(times, us, name),
                            reach=peers.get(name, (None, None))[1],
                            peer_to_stock=ratio(times[name], times[stock])['ratio']))
        del built, calls
    return dict(rows=rows, times=all_times)


def forward(bench: Bench) -> dict:
    """Forward passes without gradients, in eval mode."""
    rows, all_times = [], {}
    for size in (models.DEIT_SMALL, models.SWIN_TINY):
        size = bench.size(size)
        title, images = size.grown(2), bench.images(size.image)
        peers = {
            'timm': (lambda: models.timm_model(size), f'forward, timm, {size.family}'),
            'mmpretrain': (lambda: models.stock(size), None),
            f'{OURS} without adapters': (
                lambda: models.ours(size, adjustment=None, frozen=False),
                f'adapters, {size.family}'),
            'plain modules on timm': (lambda: models.plain(size), None),
        }
        calls = {OURS: bench.forward(bench.build(OURS, lambda: models.ours(size)), images)}
        for name, (build, _) in peers.items():
            calls[name] = bench.forward(bench.build(name, build), images)
        calls.update({**native_twins(bench, calls), **our_twins(bench, calls[OURS])})
        times = all_times[title] = bench.times(title, calls, 2 * bench.rounds)
        for name in list(times)[1:]:
            if name == f'{OURS} without adapters{NATIVE}':
                continue  # it stands beside its own row
            rows.append(row(title, 'forward', name, **against(times, OURS, name),
                            reach=peers.get(name, (None, None))[1]))
    size = bench.size(models.SWIN_TINY)
    images = bench.images(size.image)
    calls = {
        f'{OURS}, ungrown': bench.forward(
            bench.build(OURS, lambda: models.ours(size, 1, None, frozen=False, mmdet=True)),
            images),
        'mmdet': bench.forward(
            bench.build('mmdet', lambda: models.stock(size, 1, mmdet=True)), images)
    }
    calls.update(native_twins(bench, calls))
    title = f'{size.grown(1)}, ungrown'
    times = all_times[title] = bench.times(title, calls, 2 * bench.rounds)
    rows.append(row(title, 'forward', 'mmdet', **against(times, f'{OURS}, ungrown', 'mmdet'),
                    reach='forward, ungrown'))
    return dict(rows=rows, times=all_times)


def count_bytes(bench: Bench) -> dict:
    """Bytes that autograd keeps for the backward pass."""
    rows, counted = [], {}
    for size, mmdet in CASES:
        size = bench.size(size)
        title, images = case_title(size, mmdet), bench.images(size.image)
        builders = {OURS: lambda: models.ours(size, mmdet=mmdet)}
        builders.update((n, build) for n, (build, _) in step_peers(size, mmdet).items())
        counts = counted[title] = {}
        for name, build in builders.items():
            model = bench.build(name, build)
            if model is None:
                continue
            counts[name] = bytes_of(bench, model, images)
            if name == OURS:
                other, context = other_form(bench.device)
                with context():
                    counts[other] = bytes_of(bench, model, images)
        bench.say(f'  {title} (MiB): ' + ', '.join(
            f'{name} {c["kept"] / 2**20:.0f}' for name, c in counts.items()))
        stock = stock_title(size, mmdet)
        for name, count in counts.items():
            if name != OURS:
                value = counts[OURS]['kept'] / count['kept']
                rows.append(row(title, 'bytes kept', name, dict(ratio=value, low=value, high=value),
                                'bytes' if name == stock else None,
                                peer_to_stock=count['kept'] / counts[stock]['kept']))
    return dict(rows=rows, bytes=counted)


def bytes_of(bench, model, images) -> dict:
    """dict[str, int]: See :func:`kept_bytes`, and what was allocated past all that it counts."""

    def run():
        with bench.autocast():
            return [models.features(model, images)]

    counts = kept_bytes(model, run)
    allocated = allocated_bytes(run, bench.device)
    return dict(kept=counts['kept'], hidden=counts['hidden'], past=allocated - counts['made'])


def maskrcnn(bench: Bench) -> dict:
    """Training steps of a Mask R-CNN; both detectors have the same function and proposals."""
    ours, stock, data = detectors(bench)
    calls, losses = {}, {}
    for name, detector in ((OURS, ours), ('mmdet, trained in full', stock)):
        calls[name] = lambda detector=detector: detector_step(bench, detector, data)
        losses[name] = calls[name]()
    title = 'Mask R-CNN, Swin-T, all stages doubled'
    calls.update(our_twins(bench, calls[OURS]))
    times = bench.times(title, calls, bench.half())
    rows = [row(title, 'training step', name, **against(times, OURS, name),
                reach=None if OURS in name else 'mask r-cnn',
                peer_to_stock=ratio(times[name], times['mmdet, trained in full'])['ratio'])
            for name in list(times)[1:]]
    return dict(rows=rows, times={title: times}, losses=losses)


def detectors(bench):
    """Ours with heads frozen, mmdet's that trains in full with the same function, and a batch."""
    from mmengine.registry import MODELS, DefaultScope

    from scalenet_mm.engine import load_config
    from scalenet_mm.engine.synthetic import make_batch
    from scalenet_mm.growth import apply_freezing, speed_up
    root = Path(__file__).resolve().parents[1]
    cfg = load_config(str(root / 'configs/maskrcnn_scalenet_swin-t_1x_coco.py'))
    cfg.model.backbone.drop_path_rate = 0.
    side = 512
    if bench.quick:
        side = 64
        cfg.merge_from_dict({
            'model.backbone.embed_dims': 16, 'model.backbone.num_heads': (1, 1, 2, 2),
            'model.backbone.depths': (2, 2, 2, 2), 'model.neck.in_channels': [16, 32, 64, 128],
            'model.roi_head.bbox_head.fc_out_channels': 16,
            'model.roi_head.mask_head.num_convs': 1,
            'model.train_cfg.rcnn.sampler.num': 8})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        ours = MODELS.build(cfg.model)
        ours.init_weights()
        like = {key: value for key, value in cfg.model.backbone.items()
                if key not in ('growth', 'adjustment')}
        like.update(type='SwinTransformer', depths=[len(b) for b in ours.backbone.block_lists])
        stock = MODELS.build({**cfg.model, 'backbone': like})
    models.copy_blocks(ours.backbone, stock.backbone)
    heads = {key: value for key, value in ours.state_dict().items() if 'backbone.' not in key}
    stock.load_state_dict(heads, strict=False)
    hook, = (h for h in cfg.custom_hooks if h['type'] == 'AdapterInjectionHook')
    apply_freezing(ours, hook['freeze'])
    speed_up(ours)  # as the hook does, the heads too
    for detector in (ours, stock):
        detector.to(bench.device).train()
    batch, _ = make_batch(cfg, 1, (side, side))
    return ours, stock, stock.data_preprocessor(batch, True)


def detector_step(bench, detector, data) -> float:
    """float: The loss of a training step."""
    detector.zero_grad(set_to_none=True)
    torch.manual_seed(0)  # the same proposals are sampled
    with bench.autocast():
        losses = detector(**data, mode='loss')
    loss, _ = detector.parse_losses(losses)
    loss.backward()
    return loss.item()


def building(bench: Bench) -> dict:
    """Building DeiT-Base, growing it, and loading its weights; the stock model in two ways.

    In this process mmengine checks a file's sums, as importing scalenet_mm makes it; torch alone
    does not.
    """
    from mmengine.registry import MODELS
    size = bench.size(models.DEIT_BASE)
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/deit-base.pth'
        state = models.stock(size, 1).state_dict()
        torch.save(dict(state_dict={f'backbone.{k}': v for k, v in state.items()}), path)
        stock = models.stock_cfg(size, size.depth)
        init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')

        def by_config(cfg):
            with contextlib.redirect_stdout(io.StringIO()):  # mmengine prints what it loads
                MODELS.build({**cfg, 'init_cfg': init_cfg}).init_weights()

        def by_torch():
            state = torch.load(path, map_location='cpu', weights_only=True)['state_dict']
            MODELS.build(stock).load_state_dict(
                {key.removeprefix('backbone.'): value for key, value in state.items()})

        title = f'{size.title}: building, growing, loading'
        times = bench.times(title, {
            OURS: lambda: by_config({**stock, 'type': 'ScaleNetViT'}),
            'mmpretrain by init_cfg': lambda: by_config(stock),
            'mmpretrain by torch.load': by_torch,
        })
    rows = [row(size.title, 'building, growing and loading', name,
                ratio(times[OURS], times[name]), 'building') for name in list(times)[1:]]
    return dict(rows=rows, times={title: times})


def cost(bench: Bench) -> dict:
    """How time and bytes grow with depth and with the image."""
    size = bench.size(models.DEIT_SMALL)
    by_times, by_image = {}, {}
    steps, passes = {}, {}
    images = bench.images(size.image)
    for times in (1, 2, 3, 4):
        model = bench.build(OURS, lambda: models.ours(size, times))
        by_times[times] = dict(
            blocks=size.depth * times, bytes=bytes_of(bench, model, images)['kept'],
            parameters=sum(p.numel() for p in model.parameters()),
            trainable=sum(p.numel() for p in model.parameters() if p.requires_grad))
        steps[times], passes[times] = bench.step(model, images), bench.forward(model, images)
        steps[times] = in_train(model, steps[times])
        passes[times] = in_eval(model, passes[times])
    rounds = bench.half()
    for name, calls in (('step', steps), ('forward', passes)):
        for times, seconds in bench.times(f'{name} by times', calls, rounds, 1).items():
            by_times[times][name] = seconds
    stock = {times: bench.step(bench.build('stock', lambda: models.stock(size, times)), images)
             for times in (1, 2, 3, 4)}
    stock = bench.times('mmpretrain in full by times', stock, min(3, bench.rounds), 1)
    for times, seconds in stock.items():
        by_times[times]['stock step'] = seconds
    del stock, steps, passes, model

    steps, passes = {}, {}
    sides = (32, 64, 96) if bench.quick else (160, 192, 224, 288, 320, 384)
    model = bench.build(OURS, lambda: models.ours(size))
    for side in sides:
        images = bench.images(side, 2)
        by_image[side] = dict(tokens=(side // 16)**2 + 1,
                              bytes=bytes_of(bench, model, images)['kept'])
        steps[side] = in_train(model, bench.step(model, images))
        passes[side] = in_eval(model, bench.forward(model, images))
    for name, calls in (('step', steps), ('forward', passes)):
        for side, seconds in bench.times(f'{name} by image', calls, rounds, 1).items():
            by_image[side][name] = seconds
    return dict(model=size.title, by_times=by_times, by_image=by_image,
                fits=dict(times=fits(by_times, 'blocks'), image=fits(by_image, 'tokens')))


def in_train(model, call):
    """Callable: The same with the model in train mode."""
    return lambda: (model.train(), call())


def in_eval(model, call):
    """Callable: The same with the model in eval mode."""
    return lambda: (model.eval(), call())


def fits(measured: dict, over: str) -> dict:
    """dict[str, dict]: A line through each cost as a ratio to the first; ``ratios`` are those.

    ``slope`` is per ``over``, in parts of the first one's: 1 where cost is proportional.
    """
    first = next(iter(measured.values()))
    x = [m[over] / first[over] for m in measured.values()]
    lines = {}
    for name in ('step', 'forward', 'bytes'):
        if name == 'bytes':
            ratios = [m[name] / first[name] for m in measured.values()]
        else:
            ratios = [ratio(m[name], first[name])['ratio'] for m in measured.values()]
        lines[name] = dict(line_fit(x, ratios), ratios=ratios)
    return lines


def profile(bench: Bench) -> dict:
    """Where the time of a step goes, and how near it is to its matrix products alone."""
    size = bench.size(models.DEIT_SMALL)
    images = bench.images(size.image)
    model = bench.build(OURS, lambda: models.ours(size))
    call = bench.step(model, images)
    alone = {}
    for name, linear in (('matrix products alone', products.linear),
                         ("matrix products alone, torch's own", torch.nn.functional.linear)):
        with fast_paths(False):  # each linear layer is called then
            alone[name] = in_a_row(
                linear_products(model, lambda: models.features(model, images), linear))
    attention = attention_passes(size, images, len(model.layers))

    times = bench.times(size.grown(2), {
        'whole step': call, **alone, 'attention alone': attention})
    kinds = profile_kinds(call, models.RANK)
    whole, floor = times['whole step'], times['matrix products alone']
    both = [a + b for a, b in zip(floor, times['attention alone'])]
    return dict(model=size.grown(2), times=times, kinds=kinds,
                to_products=ratio(whole, floor), to_products_and_attention=ratio(whole, both))


def in_a_row(calls) -> Callable:
    """Callable: Runs several calls, without gradients."""

    def run():
        with torch.no_grad():
            for call in calls:
                call()

    return run


def attention_passes(size, images, blocks) -> Callable:
    """Callable: The attention of all blocks, forward and backward, on tensors of its own."""
    tokens = (size.image // 16)**2 + 1
    shape = (len(images), size.heads, tokens, size.dims // size.heads)
    query, key, value = (torch.randn(shape, device=images.device).requires_grad_()
                         for _ in range(3))
    gradient = torch.randn(shape, device=images.device)

    def run():
        for _ in range(blocks):
            out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
            torch.autograd.grad(out, (query, key, value), gradient)

    return run


def compiled(bench: Bench) -> dict:
    """Training steps compiled by torch.compile against eager ones; compiling is not counted."""
    rows, all_times = [], {}
    compiler = os.environ.get('CXX', 'g++')
    if bench.device == 'cpu' and shutil.which(compiler) is None:
        bench.leave_out('torch.compile', f'there is no compiler {compiler}')
        return dict(rows=rows, times=all_times)
    stock = 'mmpretrain, trained in full'
    for size in (models.DEIT_SMALL, models.SWIN_TINY):
        size = bench.size(size)
        images, title = bench.images(size.image), size.grown(2)
        calls, failed = {}, {}
        for name, build in ((OURS, models.ours), (stock, models.stock)):
            model = bench.build(name, lambda: build(size))
            calls[name] = bench.step(model, images)
            fast = torch.compile(lambda x, model=model: models.features(model, x))
            try:
                call = bench.step(Compiled(model, fast), images)
                call()
                calls[f'{name}, compiled'] = call
            except RuntimeError as error:  # torch's compilers' errors are
                failed[f'{name}, compiled'] = f'does not compile: {type(error).__name__}'
                bench.say(f'  {title}, {name}: does not compile: {str(error)[:500]}')
        times = all_times[title] = bench.times(title, calls)
        for us, peer in ((OURS, OURS), (stock, stock), (OURS, f'{stock}, compiled'),
                         (OURS, stock)):
            us = f'{us}, compiled'
            why = failed.get(us) or failed.get(peer)
            rows.append(row(
                title, f'training step, {us}', peer + ', eager' * (peer in (OURS, stock)),
                None if why else ratio(times[us], times[peer]), failed=why))
        torch._dynamo.reset()
    return dict(rows=rows, times=all_times)


class Compiled:
    """A model whose features come from a compiled function."""

    def __init__(self, model, function):
        self.model, self.function = model, function

    def __call__(self, images):
        return [self.function(images)]

    def zero_grad(self, set_to_none=True):
        self.model.zero_grad(set_to_none)
