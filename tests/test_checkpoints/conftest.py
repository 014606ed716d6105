"""Small backbones with weights that hide nothing, and the formats that others write them in."""
import http.server
import os
import re
import threading

import pytest
import torch

from scalenet_mm import ScaleNetSwin, ScaleNetViT

SWIN = dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4))
VIT = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)


def randomise(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(name='randomise')
def randomise_fixture():
    return randomise


@pytest.fixture
def swin():
    """Make a small ScaleNetSwin with drawn weights; ungrown unless asked otherwise."""

    def make(seed=0, **kwargs):
        kwargs = {'arch': SWIN, 'img_size': 56, 'growth': None, 'adjustment': None, **kwargs}
        return randomise(ScaleNetSwin(**kwargs), seed).eval()

    return make


@pytest.fixture
def vit():

    def make(seed=0, **kwargs):
        kwargs = {'arch': VIT, 'img_size': 48, 'growth': None, 'adjustment': None, **kwargs}
        return randomise(ScaleNetViT(**kwargs), seed).eval()

    return make


@pytest.fixture
def image():

    def make(size=56, seed=0):
        return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))

    return make


def official_swin(state):
    """The names and the order of merged patches of the official Swin, from OpenMMLab's."""
    out = {}
    for key, value in state.items():
        key = key.replace('patch_embed.projection.', 'patch_embed.proj.')
        key = re.sub(r'^stages\.', 'layers.', key)
        key = key.replace('.attn.w_msa.', '.attn.')
        key = key.replace('.ffn.layers.0.0.', '.mlp.fc1.').replace('.ffn.layers.1.', '.mlp.fc2.')
        key = re.sub(r'^norm1\.', 'norm.', key)
        # Unfold: channel by channel, positions (0,0) (0,1) (1,0) (1,1); official: position by
        # position, (0,0) (1,0) (0,1) (1,1)
        if 'downsample.reduction' in key:
            value = value.unflatten(1, (-1, 4))[:, :, [0, 2, 1, 3]].transpose(1, 2).flatten(1)
        elif 'downsample.norm' in key:
            value = value.unflatten(0, (-1, 4))[:, [0, 2, 1, 3]].T.flatten()
        out[key] = value
    out['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 49, 49)
    out['head.weight'], out['head.bias'] = torch.zeros(5, 32), torch.zeros(5)
    return out


def official_deit(state):
    out = {}
    for key, value in state.items():
        key = key.replace('patch_embed.projection.', 'patch_embed.proj.')
        key = re.sub(r'^ln1\.', 'norm.', key)
        key = re.sub(r'^layers\.(\d+)\.ln', r'blocks.\1.norm', key)
        key = re.sub(r'^layers\.', 'blocks.', key)
        key = key.replace('.ffn.layers.0.0.', '.mlp.fc1.').replace('.ffn.layers.1.', '.mlp.fc2.')
        out[key] = value
    out['head.weight'], out['head.bias'] = torch.zeros(5, 24), torch.zeros(5)
    return out


def classifier(state, head='head.fc.'):
    """A whole mmpretrain classifier."""
    return {**{f'backbone.{k}': v for k, v in state.items()},
            f'{head}weight': torch.zeros(5, 8), f'{head}bias': torch.zeros(5)}


def mmseg_vit(state):
    return {k.replace('attn.qkv.', 'attn.attn.in_proj_').replace('attn.proj.',
                                                                 'attn.attn.out_proj.'): v
            for k, v in state.items()}


SWIN_FORMATS = {
    'official': lambda s: {'model': official_swin(s)},
    'official detector': lambda s: {'state_dict': {
        f'backbone.{k}': v for k, v in official_swin(s).items() if 'head' not in k}},
    'backbone': lambda s: dict(s),
    'backbone in state_dict': lambda s: {'meta': {'epoch': 3}, 'state_dict': dict(s)},
    'classifier': lambda s: {'state_dict': classifier(s)},
    'old mmpretrain': lambda s: {'state_dict': {
        k.replace('backbone.norm1.', 'backbone.norm.'): v for k, v in classifier(s).items()}},
    'detector': lambda s: {'meta': {}, 'state_dict': {
        **{f'backbone.{k}': v for k, v in s.items()},
        'backbone.norm0.weight': torch.ones(16), 'backbone.norm0.bias': torch.ones(16),
        'neck.lateral_convs.0.conv.weight': torch.ones(3),
        'roi_head.bbox_head.fc_cls.weight': torch.ones(4)}},
    'distributed': lambda s: {'state_dict': {
        f'module.{k}': v for k, v in classifier(s).items()}},
    'official distributed': lambda s: {'model': {
        f'module.{k}': v for k, v in official_swin(s).items()}},
}
VIT_FORMATS = {
    'official': lambda s: {'model': official_deit(s)},
    'timm': official_deit,
    'backbone': lambda s: dict(s),
    'classifier': lambda s: {'state_dict': classifier(s, 'head.layers.head.')},
    'mmseg': mmseg_vit,
    'segmentor': lambda s: {'state_dict': {
        **{f'backbone.{k}': v for k, v in mmseg_vit(s).items()},
        'decode_head.conv_seg.weight': torch.ones(3)}},
    'distributed': lambda s: {'model': {f'module.{k}': v for k, v in official_deit(s).items()}},
}


@pytest.fixture
def formats():
    return dict(swin=SWIN_FORMATS, vit=VIT_FORMATS)


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path, )


def write_evil(path, trace, zipped=True):
    torch.save({'state_dict': {'w': torch.ones(2)}, 'evil': Evil(trace)}, path,
               _use_new_zipfile_serialization=zipped)


write_evil.Evil = Evil


@pytest.fixture(name='write_evil')
def write_evil_fixture():
    """Write a file whose unpickling makes a folder."""
    return write_evil


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serve a folder on this machine; downloads go to another folder of the test."""
    root, hub = tmp_path / 'www', tmp_path / 'hub'
    root.mkdir()
    monkeypatch.setattr(torch.hub, '_hub_dir', str(hub))
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('no_proxy', '127.0.0.1')

    class Handler(http.server.SimpleHTTPRequestHandler):

        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(root), **kwargs)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield root, f'http://127.0.0.1:{server.server_port}', hub
    server.shutdown()
    server.server_close()
    thread.join()
