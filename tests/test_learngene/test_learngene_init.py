"""A descendant that names its gene in its config."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gene_toys import ARCH, auxiliary_cfg, build, make_cfg, save_trained, tleg_cfg
from mmengine.config import Config
from mmengine.registry import DATASETS, WEIGHT_INITIALIZERS, DefaultScope
from mmengine.runner import Runner
from torch.utils.data import Dataset

from scalenet_mm import Learngene
from scalenet_mm.checkpoints import load_file
from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.errors import CheckpointError, ConfigError, GrowthError
from scalenet_mm.learngene import expand_checkpoint, extract_gene, read_gene, save_gene
from scalenet_mm.learngene.learngene_init import check_learngene

ROOT = Path(__file__).resolve().parents[2]


def learngene(path, **kwargs):
    return dict(type='Learngene', checkpoint=str(path), **kwargs)


def started(cfg):
    """A config's model as its training begins."""
    torch.manual_seed(3)
    model = build(cfg)
    model.init_weights()
    return model


def same(model, expected, but=()):
    state = model.state_dict()
    assert set(state) == set(expected) | set(but)
    return all(torch.equal(state[k], v) for k, v in expected.items())


@pytest.mark.parametrize('depth', [1, 5, 12])
@pytest.mark.parametrize('options', [
    {}, dict(order='front-last-mid'), dict(order='random-assigned', seed=2)])
def test_it_is_the_file_of_the_tool(depth, options, gene_file):
    expected = expand_checkpoint(read_gene(gene_file), depth, **options)['state_dict']
    cfg = make_cfg(num_layers=depth, init_cfg=learngene(gene_file, **options))
    check_learngene(cfg)
    assert same(started(cfg), expected)


def test_vanilla_too(tmp_path):
    path = str(tmp_path / 'gene.pth')
    save_trained(tmp_path / 'plain.pth', make_cfg())
    gene = extract_gene(str(tmp_path / 'plain.pth'), method='vanilla', last_blocks=1)
    save_gene(gene, path)
    cfg = make_cfg(num_layers=4, init_cfg=learngene(path, seed=9))
    check_learngene(cfg)
    assert same(started(cfg), expand_checkpoint(gene, 4, seed=9)['state_dict'])
    del cfg.model.init_cfg.seed
    with pytest.raises(GrowthError, match='3 of 4 blocks are not in .*gene.pth .*give a seed'):
        check_learngene(cfg)


def test_tleg_too(tmp_path):
    path = str(tmp_path / 'gene.pth')
    save_trained(tmp_path / 'tleg.pth', tleg_cfg())
    gene = extract_gene(str(tmp_path / 'tleg.pth'))
    save_gene(gene, path)
    cfg = make_cfg(num_layers=7, init_cfg=learngene(path))
    check_learngene(cfg)
    assert same(started(cfg), expand_checkpoint(gene, 7)['state_dict'])


def test_of_the_backbone_alone(gene_file):
    """The head starts as its own config says."""
    cfg = make_cfg(num_classes=9, num_layers=4)
    cfg.model.backbone.init_cfg = learngene(gene_file)
    check_learngene(cfg)
    model = started(cfg)
    expected = expand_checkpoint(read_gene(gene_file), 4, head=False)['state_dict']
    assert same(model, expected, ('head.layers.head.weight', 'head.layers.head.bias'))
    assert not model.head.layers.head.weight.any()


def test_without_the_head(gene_file):
    head = dict(type='VisionTransformerClsHead', num_classes=9, in_channels=24,
                init_cfg=dict(type='Constant', layer='Linear', val=0.5, bias=0.25))
    cfg = make_cfg(num_layers=4, head=head, init_cfg=learngene(gene_file, head=False))
    check_learngene(cfg)
    model = started(cfg)
    expected = expand_checkpoint(read_gene(gene_file), 4, head=False)['state_dict']
    assert same(model, expected, ('head.layers.head.weight', 'head.layers.head.bias'))
    assert (model.head.layers.head.weight == 0.5).all()
    assert (model.head.layers.head.bias == 0.25).all()


def test_of_a_stock_backbone(gene_file):
    """mmpretrain's class draws its position embeddings after everything else."""
    cfg = make_cfg(type='VisionTransformer', arch=dict(ARCH, num_layers=6), img_size=32,
                   patch_size=8)
    cfg.model.init_cfg = learngene(gene_file)
    check_learngene(cfg)
    assert same(started(cfg), expand_checkpoint(read_gene(gene_file), 6)['state_dict'])
    cfg.model.init_cfg = None
    cfg.model.backbone.init_cfg = learngene(gene_file)
    with pytest.raises(ConfigError, match='put it into model.init_cfg'):
        started(cfg)


def test_behind_other_initialisers(gene_file):
    """A recipe's own may stand before it."""
    drawn = dict(type='TruncNormal', layer='Linear', std=0.5)
    cfg = make_cfg(num_layers=4)
    cfg.model.init_cfg = [drawn, learngene(gene_file)]
    assert same(started(cfg), expand_checkpoint(read_gene(gene_file), 4)['state_dict'])
    cfg.model.init_cfg = [learngene(gene_file), drawn]
    with pytest.raises(ConfigError, match="'TruncNormal' comes after 'Learngene'"):
        started(cfg)


def test_of_a_distilled_student(gene_file):
    cfg = make_cfg(num_layers=4, init_cfg=learngene(gene_file))
    cfg.model = dict(type='DistilledClassifier', student=cfg.model, alpha=0.)
    check_learngene(cfg)
    expected = expand_checkpoint(read_gene(gene_file), 4)['state_dict']
    assert same(started(cfg), expected)
    cfg.model.student.init_cfg, cfg.model.init_cfg = None, learngene(gene_file)
    check_learngene(cfg)
    assert same(started(cfg), expected)
    cfg.model.init_cfg.seed = 'x'
    with pytest.raises(GrowthError, match='seed must be an integer'):
        check_learngene(cfg)


def test_of_a_descendant_that_grows(gene_file):
    cfg = make_cfg(num_layers=4, init_cfg=learngene(gene_file))
    cfg.model.backbone.update(growth=dict(times=2), adjustment='paper')
    check_learngene(cfg)
    state = started(cfg).state_dict()
    expected = expand_checkpoint(read_gene(gene_file), 4)['state_dict']
    assert all(torch.equal(state[k], v) for k, v in expected.items())
    for name in ('ln1.weight', 'ln2.bias'):
        assert torch.equal(state[f'backbone.layers.2_r1.{name}'],
                           expected[f'backbone.layers.2.{name}'])
    ups = [v for k, v in state.items() if k.endswith('adapter_up')]
    assert len(ups) == 16 and not any(v.any() for v in ups)


@DATASETS.register_module(name='ImagesOfADescendant')
class Images(Dataset):
    metainfo = dict(classes=list('abcde'))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 5))


def test_a_training_from_config_alone(gene_file, tmp_path):
    """It starts from the gene, trains all blocks apart, and its checkpoint is a plain one."""
    cfg = make_cfg(num_layers=4, init_cfg=learngene(gene_file))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        runner = Runner(
            model=cfg.model, work_dir=str(tmp_path / 'w'), default_scope='mmpretrain',
            experiment_name=tmp_path.name,
            train_dataloader=dict(dataset=Images(), batch_size=2, num_workers=0,
                                  sampler=dict(type='DefaultSampler', shuffle=False),
                                  collate_fn=dict(type='default_collate')),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.)))
        runner.train()
    assert same(runner.model, expand_checkpoint(read_gene(gene_file), 4)['state_dict'])
    saved = load_file(str(tmp_path / 'w' / 'epoch_1.pth'))
    assert set(saved['state_dict']) == set(runner.model.state_dict())


def train_frozen(cfg, tmp_path):
    """Train by the paper's rule of freezing: what is frozen must have come from a file."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        runner = Runner.from_cfg(Config(dict(
            model=cfg.model, work_dir=str(tmp_path / 'w'), default_scope='mmpretrain',
            experiment_name=tmp_path.name,
            custom_hooks=[dict(type='AdapterInjectionHook', freeze='paper')],
            train_dataloader=dict(dataset=dict(type='mmengine.ImagesOfADescendant'), batch_size=2,
                                  num_workers=0,
                                  sampler=dict(type='DefaultSampler', shuffle=False),
                                  collate_fn=dict(type='default_collate')),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.)))))
        runner.train()
    return runner.model


def test_freezing_what_was_selected(tmp_path):
    """WeightSelection is one of the ways in which a file fills a model."""
    path = str(tmp_path / 'large.pth')
    larger = make_cfg()
    larger.model.backbone.arch = dict(embed_dims=48, num_layers=4, num_heads=4,
                                      feedforward_channels=96)
    larger.model.head.in_channels = 48
    large = save_trained(path, larger)
    model = train_frozen(make_cfg(init_cfg=dict(type='WeightSelection', checkpoint=path)), tmp_path)
    assert not any(p.requires_grad for p in model.backbone.parameters() if p.ndim > 1)
    assert torch.equal(model.backbone.layers[2].attn.proj.weight,
                       large.backbone.layers[2].attn.proj.weight[::2, ::2])
    assert torch.equal(model.head.layers.head.weight, large.head.layers.head.weight[:, ::2])


def test_freezing_what_a_gene_filled(gene_file, tmp_path):
    model = train_frozen(make_cfg(num_layers=4, init_cfg=learngene(gene_file)), tmp_path)
    assert same(model, expand_checkpoint(read_gene(gene_file), 4)['state_dict'])


@pytest.mark.parametrize('depth', [1, 3])
def test_freezing_random_blocks(depth, tmp_path):
    """Vanilla-LG's first blocks came from no file."""
    path, gene = str(tmp_path / 'net.pth'), str(tmp_path / 'gene.pth')
    save_trained(path, make_cfg())
    save_gene(extract_gene(path, method='vanilla', last_blocks=1), gene)
    cfg = make_cfg(num_layers=depth, init_cfg=learngene(gene, seed=0))
    if depth == 1:  # all of it is in the gene
        train_frozen(cfg, tmp_path)
        return
    with pytest.raises(CheckpointError, match=r'frozen but came from no checkpoint.*layers\.0\.') \
            as error:
        train_frozen(cfg, tmp_path)
    assert 'layers.2' not in str(error.value) and 'head' not in str(error.value)


@pytest.mark.parametrize('kind', ['Learngene', 'WeightSelection'])
def test_initialisers_of_parts_that_are_lost_are_named(kind, gene_file, monkeypatch):
    said = []
    monkeypatch.setattr('scalenet_mm.learngene.whole_init.print_log',
                        lambda text, **_: said.append(text))
    init_cfg = dict(type=kind, checkpoint=gene_file)
    started(make_cfg(init_cfg=init_cfg))
    assert not said  # the head's init_cfg is mmpretrain's own
    cfg = make_cfg(init_cfg=init_cfg)
    cfg.model.backbone.init_cfg = [dict(type='TruncNormal', layer='Linear', std=0.02),
                                   dict(type='Constant', layer='LayerNorm', val=2.)]
    cfg.model.head.init_cfg = dict(type='Constant', layer='Linear', val=9.)
    started(cfg)
    assert said == [
        'the init_cfg of the backbone (TruncNormal, Constant) has no effect: that of the model, of '
        f'type {kind!r}, fills all of it',
        'the init_cfg of the head (Constant) has no effect: that of the model, of type '
        f'{kind!r}, fills all of it']
    said.clear()
    cfg.model.backbone.init_cfg = None
    cfg.model.init_cfg.head = False
    model = started(cfg)
    assert not said and (model.head.layers.head.weight == 9).all()


def test_it_is_registered_for_all_toolboxes():
    for scope in ('mmpretrain', 'mmdet', 'mmseg', 'mmengine'):
        with WEIGHT_INITIALIZERS.switch_scope_and_registry(scope) as registry:
            assert registry.get('Learngene') is Learngene


def test_one_import_registers_all(tmp_path):
    """All that a config needs; and no toolbox comes with it."""
    (tmp_path / 'c.py').write_text("custom_imports = dict(imports=['scalenet_mm'])\n")
    program = '''
import sys
from mmengine.config import Config
Config.fromfile('c.py')
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
for name in ('DistilledClassifier', 'TLEGViT', 'ScaleNetViT'):
    assert name in MODELS.module_dict, name
for name in ('Learngene', 'WeightSelection'):
    assert name in WEIGHT_INITIALIZERS.module_dict, name
assert not {'mmpretrain', 'mmdet', 'mmseg'} & set(sys.modules)
'''
    subprocess.run([sys.executable, '-c', program], cwd=tmp_path, check=True,
                   env={**os.environ, 'PYTHONPATH': str(ROOT)})


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize('given, error, message', [
    (dict(checkpoint=''), ConfigError, "type 'Learngene': checkpoint must name a file, got ''"),
    (dict(checkpoint=None), ConfigError, 'checkpoint must name a file'),
    (dict(order='middle'), GrowthError, "order must be one of .*'middle'"),
    (dict(order='random-sorted'), GrowthError, 'give a seed'),
    (dict(seed=1.5), GrowthError, 'seed must be an integer'),
    (dict(head='no'), ConfigError, 'head must be True or False'),
])
def test_arguments_that_cannot_be(given, error, message, gene_file):
    cfg = make_cfg(num_layers=4, init_cfg={**learngene(gene_file), **given})
    for call in (check_learngene, started):
        with pytest.raises(error, match=message):
            call(cfg)


def test_an_unknown_argument(gene_file):
    cfg = make_cfg(num_layers=4, init_cfg=learngene(gene_file, sed=1))
    with pytest.raises(ConfigError, match='model.init_cfg: .*takes checkpoint, order, seed and he'):
        check_learngene(cfg)


def test_models_that_it_does_not_fit(gene_file, aux, tmp_path):
    wide = dict(ARCH, embed_dims=48)
    damaged = load_file(gene_file)
    damaged['learngene']['stages'] = [1]
    save_file(damaged, str(tmp_path / 'bad.pth'))
    for cfg, message in (
            (make_cfg(num_classes=7, num_layers=4, init_cfg=learngene(gene_file)),
             'has a head of 5 classes, and the model one of 7: set head=False'),
            (make_cfg(num_layers=4, init_cfg=learngene(aux[0])), 'aux.pth is no learngene'),
            (make_cfg(num_layers=4, init_cfg=learngene(tmp_path / 'bad.pth')), 'bad.pth is a dam'),
            (make_cfg(num_layers=4, init_cfg=learngene('none.pth')), 'no checkpoint file none.pth'),
    ):
        for call in (check_learngene, started):
            with pytest.raises(CheckpointError, match=message):
                call(cfg)
    cfg = make_cfg(num_layers=4, init_cfg=learngene(gene_file))
    cfg.model.backbone.arch = wide
    with pytest.raises(CheckpointError, match=r'its width \(embed_dims\) is 24'):
        check_learngene(cfg)


@pytest.mark.parametrize('kind', ['Pretrained', 'WeightSelection', 'Learngene'])
def test_two_sources_of_weights(kind, gene_file):
    other = dict(type=kind, checkpoint=gene_file)
    cfg = make_cfg(num_layers=3, init_cfg=learngene(gene_file))
    cfg.model.backbone.init_cfg = other
    with pytest.raises(ConfigError, match='init_cfg of the backbone names other weights beside'):
        started(cfg)
    cfg = make_cfg(num_layers=3)
    cfg.model.init_cfg = [other, learngene(gene_file)]
    with pytest.raises(ConfigError, match='init_cfg of the model names other weights too'):
        started(cfg)


def test_configs_without_a_gene():
    check_learngene(make_cfg())
    check_learngene(auxiliary_cfg(init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.1)]))
    check_learngene({})
