"""Learngene configs at work: narrow models, the configs' own data sets, schedules and starts."""
import copy
import math
import runpy
import sys

import pytest
import torch
from imagenet_toys import CONFIGS, build, make_photos, on_photos, read_file
from learngene_toys import FILES, FOLDER, tell, write_cars, write_cifar, write_food
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner

from scalenet_mm import CheckpointError
from scalenet_mm.engine import check_train
from scalenet_mm.learngene import extract_gene, save_gene
from scalenet_mm.learngene.learngene_init import check_learngene

ROOT = CONFIGS.parent
ARCH = dict(embed_dims=8, num_layers=12, num_heads=2, feedforward_channels=32)
#: Blocks of a descendant that start from each of five learngenes, by depth.
FRONT_MID_LAST = {6: (2, 1, 1, 1, 1), 7: (2, 2, 1, 1, 1), 9: (2, 2, 2, 2, 1), 12: (3, 3, 2, 2, 2)}
FRONT_LAST_MID = {7: (2, 1, 1, 1, 2), 9: (2, 2, 1, 2, 2), 12: (3, 2, 2, 2, 3)}
#: Warm-up takes five epochs.
EPOCHS = 6


class Recorder(Hook):
    """Keep the weights that training starts from, and the losses and rates of its iterations."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.before = {k: v.clone() for k, v in runner.model.state_dict().items()}
        self.losses, self.rates = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({key: value.item() for key, value in outputs.items()})


def student_of(cfg):
    return cfg.model.student if cfg.model.type == 'DistilledClassifier' else cfg.model


def narrow(cfg):
    """Make a config's model narrow, in place; depth, growth and classes stay."""
    student = student_of(cfg)
    student.backbone.arch = dict(ARCH)
    student.head.in_channels = 8
    return cfg


def save_classifier(path, classes=1000, **arch):
    """Save a plain ViT of random weights; its config's model."""
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='VisionTransformer', arch={**ARCH, **arch}, img_size=224),
        head=dict(type='VisionTransformerClsHead', num_classes=classes,
                  in_channels=arch.get('embed_dims', 8)))
    cfg = Config(dict(model=model, data_preprocessor=dict(num_classes=classes)))
    net = build(cfg)
    net.init_weights()
    state = {k: v for k, v in net.state_dict().items() if k.startswith(('backbone.', 'head.'))}
    for key, value in state.items():  # biases and norms, too, so that none is like another
        if value.is_floating_point():
            state[key] = torch.randn(value.shape) * 0.1
    torch.save(dict(state_dict=state), path)
    return model


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with photos in ImageNet's layout."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'imagenet').mkdir()
    make_photos(tmp_path / 'imagenet')
    return tmp_path


def set_up(name, place, epochs=EPOCHS):
    cfg = narrow(read_file(FILES[name]))
    cfg = on_photos(cfg, place / 'imagenet', place / 'work', epochs)
    if cfg.model.type == 'DistilledClassifier':
        teacher = save_classifier(place / 'teacher.pth', num_layers=1)
        teacher['backbone'].update(drop_rate=0.5)
        cfg.model.teacher, cfg.model.teacher_checkpoint = teacher, str(place / 'teacher.pth')
    return cfg


def run(cfg):
    check_train(cfg)
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    assert 'val/accuracy/top1' in runner.message_hub.log_scalars
    assert all(math.isfinite(x) for losses in recorder.losses for x in losses.values())
    return runner, recorder


def put_gene(name, place, **options):
    """Take a learngene of random weights out of a narrow config's net, where others look for it."""
    cfg = narrow(read_file(FILES[name]))
    if cfg.model.type == 'DistilledClassifier':
        cfg.model = copy.deepcopy(cfg.model.student)
    torch.manual_seed(1)
    state = {k: torch.randn(v.shape) * 0.1 for k, v in build(cfg).state_dict().items()
             if k.startswith(('backbone.', 'head.'))}
    torch.save(dict(state_dict=state), place / 'aux.pth')
    path = place / f'work_dirs/{name}/gene.pth'
    path.parent.mkdir(parents=True)
    save_gene(extract_gene(str(place / 'aux.pth'), cfg, **options), str(path))
    return {k: v for k, v in state.items() if k.startswith(('backbone.', 'head.'))}


def blocks(state):
    """list[dict]: The tensors of each block, by name within it."""
    found = {}
    for key, value in state.items():
        if key.startswith('backbone.layers.'):
            _, _, block, rest = key.split('.', 3)
            found.setdefault(int(block), {})[rest] = value
    return [found[block] for block in sorted(found)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def check_spread(start, gene, lengths):
    """Each block is a learngene, all of a stage's blocks the same one."""
    sources = [stage for stage, length in enumerate(lengths) for _ in range(length)]
    own, learngenes = blocks(start), blocks(gene)
    assert len(own) == len(sources) and len(learngenes) == len(lengths)
    for block, source in zip(own, sources):
        assert same(block, learngenes[source])


# --- auxiliary nets ------------------------------------------------------------------------------


@pytest.mark.parametrize('name, stages, owned', [
    ('sws_aux-s_150e_imagenet', 5, 16), ('sws_aux-b-41523_100e_imagenet', 5, 15),
    ('sws_aux-b-222222-nodistill_100e_imagenet', 6, 12), ('simple_aux-b_100e_imagenet', 5, 5),
    ('tleg_aux-b_100e_imagenet', 2, 12)])
def test_an_auxiliary_net(name, stages, owned, place):
    cfg = set_up(name, place)
    runner, recorder = run(cfg)
    assert len(recorder.rates) == 12 and max(recorder.rates) == pytest.approx(5e-4)
    distilled = 'nodistill' not in name
    if distilled:
        # the soft loss alone
        assert all(losses['loss_cls'] == 0 < losses['loss_distill'] for losses in recorder.losses)
        given = torch.load('teacher.pth', weights_only=True)['state_dict']
        teacher = runner.model.teacher.state_dict()
        assert not runner.model.teacher.training
        assert all(torch.equal(teacher[key], value) for key, value in given.items())
    else:
        assert all('loss_distill' not in losses for losses in recorder.losses)

    saved = torch.load(f'work/epoch_{EPOCHS}.pth', weights_only=False)['state_dict']
    assert len(runner.model.backbone.layers) == owned
    assert {key.split('.')[0] for key in saved} <= {'backbone', 'head', 'data_preprocessor'}
    assert len(blocks(saved)) == stages
    parameters = {k for k, _ in runner.model.named_parameters()}
    assert parameters <= set(saved)
    moved = {k for k in parameters if not torch.equal(saved[k], recorder.before[k])}
    assert {f'backbone.layers.{i}.attn.qkv.weight' for i in range(stages)} <= moved


# --- descendants ---------------------------------------------------------------------------------


@pytest.mark.parametrize('name, aux', [
    ('sws_des-b-9_10e_imagenet', 'sws_aux-b_100e_imagenet'),
    ('sws_des-s-7_10e_imagenet', 'sws_aux-s_150e_imagenet'),
    ('simple_des-b-12_10e_imagenet', 'simple_aux-b_100e_imagenet')])
def test_a_descendant_starts_from_its_gene(name, aux, place):
    gene = put_gene(aux, place)
    cfg = set_up(name, place, epochs=1)
    runner, recorder = run(cfg)
    assert recorder.rates[0] == pytest.approx(5e-5 if tell(name).size == 's' else 1e-5)
    check_spread(recorder.before, gene, FRONT_MID_LAST[int(tell(name).number)])
    rest = {k: v for k, v in gene.items() if not k.startswith('backbone.layers.')}
    assert len(rest) == 8 and same(rest, {k: recorder.before[k] for k in rest})
    # what started alike is not tied
    after = blocks(runner.model.state_dict())
    assert not torch.equal(after[0]['attn.qkv.weight'], after[1]['attn.qkv.weight'])


def test_tleg_descends_on_a_line(place):
    gene = put_gene('tleg_aux-b_100e_imagenet', place)
    _, recorder = run(set_up('tleg_des-b-6_40e_imagenet', place, epochs=1))
    a, b = blocks(gene)
    for i, block in enumerate(blocks(recorder.before)):
        for key, value in block.items():
            assert torch.allclose(value, a[key] + i / 6 * b[key]), key


def test_vanilla_takes_the_last_blocks(place):
    # of a plain model of 12 blocks, as DeiT-Base is
    name = 'scratch_des-b-12_100e_imagenet'
    given = blocks(put_gene(name, place, method='vanilla'))
    cfg = set_up('vanilla_des-b-8_10e_imagenet', place, epochs=1)
    (place / f'work_dirs/{name}').rename(place / 'work_dirs/vanilla_deit-b')
    _, recorder = run(cfg)
    own = blocks(recorder.before)
    assert len(own) == 8 and all(map(same, own[5:], given[9:]))
    assert not any(same(block, other) for block in own[:5] for other in given)


def test_weights_are_selected(place):
    save_classifier(place / 'large.pth', embed_dims=16, num_layers=24, feedforward_channels=64)
    cfg = set_up('selection_des-b-6_10e_imagenet', place, epochs=1)
    cfg.model.init_cfg.checkpoint = str(place / 'large.pth')
    runner, recorder = run(cfg)
    for value in (runner.model.data_preprocessor.mean, runner.model.data_preprocessor.std):
        assert value.flatten().tolist() == [127.5] * 3
    given = blocks(torch.load('large.pth', weights_only=True)['state_dict'])
    for own, block in zip(blocks(recorder.before), given):
        key = 'ffn.layers.0.0.weight'
        assert torch.equal(own[key], block[key][::2, ::2])


def test_from_scratch(place):
    _, recorder = run(set_up('scratch_des-s-6_100e_imagenet', place))
    assert len(blocks(recorder.before)) == 6
    assert max(recorder.rates) == pytest.approx(5e-4)


def with_options(name, place, *options):
    """Config: One for Table 4, with the options that a user types."""
    return give(set_up(name, place, epochs=1), options)


def give(cfg, options):
    """Config: With options as a command line has them."""
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in (
        option.split('=') for option in options)})
    return cfg


@pytest.mark.parametrize('depth', [7, 12])
def test_table_4_front_last_mid(depth, place):
    gene = put_gene('sws_aux-b_100e_imagenet', place)
    cfg = with_options(f'sws_des-b-{depth}_10e_imagenet', place,
                       'model.init_cfg.order=front-last-mid')
    model = build(cfg)
    model.init_weights()
    check_spread(model.state_dict(), gene, FRONT_LAST_MID[depth])


def test_table_4_random_assigned(place):
    gene = put_gene('sws_aux-b_100e_imagenet', place)
    learngenes, drawn = blocks(gene), {}
    for seed in '0', '0', '1', '2':
        cfg = with_options('sws_des-b-12_10e_imagenet', place,
                           'model.init_cfg.order=random-assigned', f'model.init_cfg.seed={seed}')
        model = build(cfg)
        model.init_weights()
        sources = [[same(block, other) for other in learngenes].index(True)
                   for block in blocks(model.state_dict())]
        assert drawn.setdefault(seed, sources) == sources and len(sources) == 12
    assert len({tuple(sources) for sources in drawn.values()}) == 3
    assert any(sources != sorted(sources) for sources in drawn.values())


def test_a_missing_gene_is_named(place):
    cfg = set_up('sws_des-b-6_10e_imagenet', place, epochs=1)
    with pytest.raises(CheckpointError, match='work_dirs/sws_aux-b_100e_imagenet/gene.pth'):
        Runner.from_cfg(cfg).train()


# --- other data ----------------------------------------------------------------------------------


def on_data(name, place, monkeypatch, epochs=EPOCHS):
    told = tell(name)
    root = place / 'data'
    root.mkdir()
    kind = dict(cifar10='CIFAR10', cifar100='CIFAR100').get(told.data)
    if kind:
        write_cifar(root, kind, monkeypatch)
    else:
        dict(food101=write_food, cars196=write_cars)[told.data](root)
    return on_photos(narrow(read_file(FILES[name])), root, place / 'work', epochs)


@pytest.mark.parametrize('name, aux', [
    ('sws_des-b-9_100e_cifar100', 'sws_aux-b_100e_imagenet'),
    ('sws_des-b-12_100e_cifar10', 'sws_aux-b_100e_imagenet'),
    ('sws_des-s-12_100e_food101', 'sws_aux-s_150e_imagenet'),
    ('sws_des-s-12-aux100e_100e_cars196', 'sws_aux-s_100e_imagenet')])
def test_transfer_from_a_gene(name, aux, place, monkeypatch):
    gene = put_gene(aux, place)
    runner, recorder = run(on_data(name, place, monkeypatch))
    # two photos at a time of four, CIFAR-10's of five files
    assert len(recorder.rates) == 2 * EPOCHS * (5 if tell(name).data == 'cifar10' else 1)
    assert max(recorder.rates) == pytest.approx(1e-4)
    check_spread(recorder.before, gene, FRONT_MID_LAST[int(tell(name).number)])
    assert torch.equal(recorder.before['backbone.pos_embed'], gene['backbone.pos_embed'])
    # the classifier is of the new classes
    assert len(recorder.before['head.layers.head.weight']) == runner.model.head.num_classes < 1000


@pytest.mark.parametrize('name', ['pf_des-b-9_100e_cifar100', 'pf_des-s-12_100e_cars196'])
def test_pre_train_and_fine_tune(name, place, monkeypatch):
    cfg = on_data(name, place, monkeypatch)
    told = tell(name)
    (place / cfg.load_from).parent.mkdir(parents=True)
    save_classifier(place / cfg.load_from, num_layers=int(told.number))
    _, recorder = run(cfg)
    given = torch.load(cfg.load_from, weights_only=True)['state_dict']
    assert recorder.before.keys() - {'data_preprocessor.mean', 'data_preprocessor.std'} \
        == given.keys()
    for key, value in given.items():
        assert key.startswith('head.') or torch.equal(recorder.before[key], value), key


def figure_5():
    """dict[str, list[str]]: The README's options for Figure 5's columns."""
    lines = (FOLDER / 'README.md').read_text().split("Figure 5's other columns")[1].split('```')[1]
    found = (line.partition('--cfg-options ')[2].split('#') for line in lines.splitlines()[1:])
    return {name.strip(): options.split() for options, name in found}


def test_figure_5_has_three_other_columns():
    assert list(figure_5()) == ['Scratch', 'TLEG', 'Vanilla-LG']


def test_figure_5_from_scratch(place, monkeypatch):
    cfg = give(on_data('sws_des-b-12_100e_cifar100', place, monkeypatch), figure_5()['Scratch'])
    _, recorder = run(cfg)
    assert len(blocks(recorder.before)) == 12


def start_of_figure_5(column):
    """list[dict]: The blocks that a config starts from with a column's options."""
    cfg = give(narrow(read_file(FILES['sws_des-b-12_100e_food101'])), figure_5()[column])
    check_learngene(cfg)
    model = build(cfg)
    model.init_weights()
    return blocks(model.state_dict())


def test_figure_5_by_tleg(place):
    a, b = blocks(put_gene('tleg_aux-b_100e_imagenet', place))
    for i, block in enumerate(start_of_figure_5('TLEG')):
        assert all(torch.allclose(value, a[key] + i / 12 * b[key]) for key, value in block.items())


def test_figure_5_by_vanilla(place):
    name = 'scratch_des-b-12_100e_imagenet'
    given = blocks(put_gene(name, place, method='vanilla'))
    (place / f'work_dirs/{name}').rename(place / 'work_dirs/vanilla_deit-b')
    own, again = start_of_figure_5('Vanilla-LG'), start_of_figure_5('Vanilla-LG')
    assert len(own) == 12 and all(map(same, own[9:], given[9:])) and all(map(same, own, again))
    assert not any(same(block, other) for block in own[:9] for other in given)


# --- the chain of commands -----------------------------------------------------------------------

MINE = """\
_base_ = '{path}'
model = dict({open}
    backbone=dict(arch=dict(_delete_=True, **{arch})), head=dict(in_channels=8){close})
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(data_root='imagenet'))
val_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(data_root='imagenet'))
test_dataloader = val_dataloader
experiment_name = '{experiment}'
"""
TEACHER = "default_scope = 'mmpretrain'\nmodel = {model}\n"


@pytest.fixture
def command(place, monkeypatch, capsys):
    """Run a command line in this process, in a folder with narrow configs of the same names."""

    def run(line):
        words = line.split()
        monkeypatch.setattr(sys, 'argv', [str(ROOT / words[0]), *words[1:]])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / words[0]), run_name='__main__')
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return said.out

    for name, epochs in (('sws_aux-b_100e_imagenet', EPOCHS), ('sws_des-b-9_10e_imagenet', 1)):
        wraps = ('student=dict(', ')') if 'aux' in name else ('', '')
        (place / f'{name}.py').write_text(MINE.format(
            path=FILES[name], arch=ARCH, epochs=epochs, experiment=f'{place.name}-{name}',
            open=wraps[0], close=wraps[1]))
    model = save_classifier(place / 'teacher.pth', num_layers=1)
    (place / 'teacher.py').write_text(TEACHER.format(model=model))
    return run


def test_the_readmes_chain(place, command):
    """Auxiliary net, gene, descendant; the gene is looked for where the README puts it."""
    readme = ' '.join((FILES['sws_aux-b_100e_imagenet'].parents[1] / 'README.md')
                      .read_text().replace('\\\n', ' ').split())
    extract = ('python tools/learngene.py extract work_dirs/sws_aux-b_100e_imagenet/epoch_100.pth '
               'work_dirs/sws_aux-b_100e_imagenet/gene.pth')
    expand = ('python tools/learngene.py expand work_dirs/sws_aux-b_100e_imagenet/gene.pth 9 '
              'des-b-9.pth')
    assert extract in readme and expand in readme
    command('tools/train.py sws_aux-b_100e_imagenet.py --cfg-options model.teacher=teacher.py '
            'model.teacher_checkpoint=teacher.pth')
    command(extract.replace('epoch_100', f'epoch_{EPOCHS}').removeprefix('python '))
    command('tools/train.py sws_des-b-9_10e_imagenet.py')
    command(expand.removeprefix('python '))
    said = command('tools/test.py sws_des-b-9_10e_imagenet.py des-b-9.pth')
    assert 'accuracy/top1' in said

    aux = torch.load(f'work_dirs/sws_aux-b_100e_imagenet/epoch_{EPOCHS}.pth',
                     weights_only=False)['state_dict']
    expanded = torch.load('des-b-9.pth', weights_only=True)['state_dict']
    check_spread(expanded, aux, FRONT_MID_LAST[9])
    trained = torch.load('work_dirs/sws_des-b-9_10e_imagenet/epoch_1.pth', weights_only=False)
    for own, start in zip(blocks(trained['state_dict']), blocks(expanded)):
        # two steps of 1e-5 away from it, at most
        assert all((own[key] - start[key]).abs().max() < 1e-4 for key in start)
