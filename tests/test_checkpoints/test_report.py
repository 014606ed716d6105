"""The comparison of a file with a model, and the line that tells of it."""
import re

import pytest
import torch

from scalenet_mm.checkpoints import LoadReport
from scalenet_mm.checkpoints.report import compare, list_prefixes
from scalenet_mm.errors import CheckpointError


def run(model, given, prefix=''):
    return compare('file.pth', 'OpenMMLab', model.state_dict(), given, prefix,
                   list_prefixes(model))


def test_everything_matches(vit):
    model = vit()
    report = run(model, model.state_dict())
    assert report.matched == list(model.state_dict())
    assert str(report) == (f'Loaded file.pth (OpenMMLab): {len(report.matched)} tensors matched; '
                           'initialised: none; ignored: none')


def test_what_is_ignored_is_grouped():
    report = LoadReport('a.pth', 'official', ['x'], {'of the head': ['h', 'i']}, [], [
        f'{part}.{i}.{p}' for part in ('a', 'b') for i in range(4) for p in ('weight', 'bias')])
    assert str(report) == (
        'Loaded a.pth (official): 1 tensors matched; initialised: 2 of the head; ignored: '
        'a.0 (2), a.1 (2), a.2 (2), a.3 (2), b.0 (2), b.1 (2), ...')


def test_output_norms_may_come_and_go(swin):
    """A classifier has one, a detector one a stage."""
    classifier, detector = swin(), swin(out_indices=(0, 1))
    report = run(detector, classifier.state_dict())
    assert report.initialised == {'norms of outputs': ['norm0.weight', 'norm0.bias']}
    report = run(classifier, detector.state_dict())
    assert report.ignored == ['norm0.weight', 'norm0.bias'] and not report.initialised


def test_derived_tensors_are_no_matter(swin):
    model = swin()
    given = {k: v for k, v in model.state_dict().items() if 'position_index' not in k}
    given['stages.0.blocks.1.attn_mask'] = torch.ones(1)
    report = run(model, given)
    assert not report.initialised and not report.ignored


def test_adapters_come_with_the_first_growth(vit):
    model = vit(growth=dict(start='identity'), adjustment='paper')
    report = run(model, vit().state_dict())
    assert set(report.initialised) == {"norms of repeats (copies of their source's last instance)",
                                       'adapters, LoRA or gains'}
    assert sum(map(len, report.initialised.values())) + len(report.matched) == len(
        model.state_dict())


def test_more_times_are_no_partial_file(vit):
    report = run(vit(growth=dict(times=3), adjustment='paper'),
                 vit(growth=dict(), adjustment='paper').state_dict())
    assert all('_r2' in key for keys in report.initialised.values() for key in keys)


@pytest.mark.parametrize('lost', ['layers.0_r1.ln2.bias', 'layers.0_r1.ffn.layers.1.adapter_down',
                                  'layers.2.ffn.layers.0.0.adapter_up'])
def test_a_part_of_a_block_is_an_error(lost, vit):
    model = vit(growth=dict(), adjustment='paper')
    given = dict(model.state_dict())
    del given[lost]
    with pytest.raises(CheckpointError, match=f'file.pth is of another.*{lost} is missing'):
        run(model, given)


STAGE2 = dict(stages=(1, ), start='identity')
STAGES = dict(stages=(0, 1), start='identity')


def test_more_stages_are_no_partial_file(swin):
    model = swin(growth=STAGES, adjustment='paper')
    report = run(model, swin(growth=STAGE2, adjustment='paper').state_dict())
    new = [key for keys in report.initialised.values() for key in keys]
    assert all(key.startswith('stages.0.blocks.') for key in new)
    # gains of the originals, which the file's ungrown stage has none of, and all of the repeats
    gains = [key for key in new if key.endswith('.gain')]
    assert len(gains) == 8 and len(new) == 8 + 2 * (4 + 4)
    given = dict(swin(growth=STAGE2, adjustment='paper').state_dict())
    del given['stages.1.blocks.0.attn.w_msa.proj.gain']  # of a stage that is grown in the file
    with pytest.raises(CheckpointError, match='stages.1.blocks.0.attn.w_msa.proj.gain is missing'):
        run(model, given)


PAPER, FURTHER = dict(stages=(1, )), 'the file is grown further than the model'
DEEPER = dict(embed_dims=16, depths=(2, 3), num_heads=(2, 4))


@pytest.mark.parametrize('given, wanted, why', [
    (dict(growth=STAGES), dict(growth=STAGE2), FURTHER + ', which does not repeat '
     'stages.0.blocks.0_r1, stages.0.blocks.1_r1: growth must be that of the file, or more. '),
    (dict(growth=PAPER), dict(growth=None), FURTHER),
    (dict(growth=STAGE2), dict(growth=PAPER), r"the file has gains, the model none: growth.start"),
    (dict(growth=PAPER), dict(growth=STAGES), r"the model has gains, the file none: growth.start"),
    (dict(growth=None), dict(growth=None, adjustment=None),
     'the file has adapters or LoRA, the model none: adjustment differs'),
    (dict(growth=PAPER, adjustment=None), dict(growth=PAPER, adjustment=None, arch=DEEPER), ''),
])
def test_why_is_said_in_the_words_of_a_config(given, wanted, why, swin):
    given, wanted = (swin(**{'adjustment': 'paper', **kwargs}) for kwargs in (given, wanted))
    with pytest.raises(CheckpointError) as error:
        run(wanted, given.state_dict())
    said = str(error.value).split('growth than the backbone: ')[1]
    assert re.match(why + r'.*stages\.[01]\.', said)
    assert why or said.startswith('stages.')


def test_the_same_under_a_prefix(vit):
    model = torch.nn.ModuleDict(dict(backbone=vit(growth=dict(), adjustment='paper'),
                                     head=torch.nn.Linear(2, 2)))
    given = dict(model.state_dict())
    assert not run(model, given, 'backbone.').initialised
    del given['head.bias']
    assert run(model, given, 'backbone.').initialised == {'of the head': ['head.bias']}
    given['head.weight'] = torch.ones(3, 2)
    assert run(model, given, 'backbone.').resized == ['head.weight (3, 2) -> (2, 2)']
    del given['backbone.layers.1_r1.ln1.weight']
    with pytest.raises(CheckpointError, match='layers.1_r1.ln1.weight is missing'):
        run(model, given, 'backbone.')


def test_many_problems_are_counted(vit):
    deep = vit(arch=dict(embed_dims=24, num_layers=5, num_heads=2, feedforward_channels=48))
    with pytest.raises(CheckpointError, match='layers.3.ln1.weight is missing.* and 20 more'):
        run(deep, vit().state_dict())


def test_nothing_matches(vit):
    with pytest.raises(CheckpointError, match='fits the model in no tensor: it names x, the model '
                       'cls_token, pos_embed'):
        run(vit(), {'x': torch.ones(1)})


def test_unshared_repeats_are_copies(vit):
    report = run(vit(growth=dict(share='none'), adjustment=None), vit().state_dict())
    assert list(report.initialised) == ["repeats (copies of their source's last instance)"]


@pytest.mark.parametrize('adjustment', ['paper', None])
@pytest.mark.parametrize('given, wanted', [('weights', 'none'), ('none', 'weights'),
                                           ('weights', 'all'), ('all', 'weights')])
def test_another_share_is_named(given, wanted, adjustment, vit):
    given_model, model = (vit(growth=dict(share=s), adjustment=adjustment)
                          for s in (given, wanted))
    if 'all' in (given, wanted) and adjustment is None:
        return  # nothing of a repeat is in such a file, or in such a model
    with pytest.raises(CheckpointError, match=f"growth.share differs, '{given}' in the file and "
                       f"'{wanted}' in the model. Check"):
        run(model, given_model.state_dict())


def test_a_missing_norm_is_not_another_share(vit):
    model = vit(growth=dict(), adjustment='paper')
    given = {k: v for k, v in model.state_dict().items() if k != 'layers.1_r1.ln1.weight'}
    with pytest.raises(CheckpointError, match='layers.1_r1.ln1.weight is missing') as error:
        run(model, given)
    assert 'share' not in str(error.value)
