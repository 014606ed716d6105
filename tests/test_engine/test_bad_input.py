"""What a user of mmpretrain's data sets gets wrong, and what is said before a folder is made."""
import cv2
import numpy as np
import pytest
from data_toys import LOOPS, error_of
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.engine import check_test, check_train
from scalenet_mm.engine.arguments import parse_train_args
from scalenet_mm.engine.options import build_train_cfg
from scalenet_mm.errors import CheckpointError, ConfigError, GrowthError
from scalenet_mm.learngene import extract_gene, save_gene

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


def write_images(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of images of three classes, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'val'):
        write_images(tmp_path / 'data' / split, *(f'{c}/{i}.png' for c in 'abc' for i in '01'))
    return tmp_path / 'data'


def make(dataset=None, options=(), val=None, **top):
    """A classifier's config, with --cfg-options applied."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = dict(dict(type='CustomDataset', data_root='data', pipeline=pipeline),
                   **(dataset or {}))
    splits = {}
    for split, options_of_split in (('train', {}), ('val', val or {}), ('test', val or {})):
        data = dict(dataset, **options_of_split)
        if dataset['type'] == 'ImageNet':
            data.setdefault('split', 'val' if split == 'test' else split)
        else:
            data.setdefault('data_prefix', 'val' if split == 'test' else split)
        splits[f'{split}_dataloader'] = dict(batch_size=2, num_workers=0, dataset=data)
    cfg = Config(dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='ScaleNetViT', arch=ARCH, img_size=8, patch_size=4),
            head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=16)),
        **splits,
        val_evaluator=dict(type='Accuracy'),
        test_evaluator=dict(type='Accuracy'),
        work_dir='work',
        **LOOPS))
    cfg.merge_from_dict(top)
    if options:
        args = parse_train_args(['c.py', '--cfg-options', *options])
        build_train_cfg(cfg, args)
    return cfg


class TestFolders:

    def test_fine(self, images):
        check_train(make())
        check_test(make())
        assert not (images.parent / 'work').exists()

    def test_empty(self, images):
        for path in (images / 'val').rglob('*.png'):
            path.unlink()
        text = error_of(make())
        assert 'val_dataloader.dataset: there is no image' in text and str(images / 'val') in text
        assert 'test_dataloader.dataset: there is no image' in error_of(make(), check_test)

    def test_no_class_folders(self, images):
        write_images(images / 'flat', '0.png')
        text = error_of(make(dict(data_prefix='flat')))
        assert 'no folders of classes' in text and 'ann_file' in text

    def test_images_beside_empty_class_folders(self, images):
        write_images(images / 'beside', '0.png')
        (images / 'beside' / 'a').mkdir()
        assert 'lie outside' in error_of(make(dict(data_prefix='beside')))

    def test_a_stray_folder(self, images):
        (images / 'train' / '__MACOSX').mkdir()
        text = error_of(make(dict(metainfo=dict(classes=('a', 'b', 'c')))))
        assert 'holds 4 folder(s)' in text and '__MACOSX only in the second' in text

    def test_splits_that_disagree(self, images):
        (images / 'val' / 'c').rename(images / 'val' / 'd')
        text = error_of(make())
        assert 'different folders of classes' in text and 'd only in the second' in text
        check_test(make())

    def test_a_split_left_over_from_imagenet(self, images):
        text = error_of(make(dict(split='train')))
        assert 'CustomDataset has no split' in text and '_delete_=True' in text

    def test_other_extensions(self, images):
        text = error_of(make(dict(extensions=('.JPG', ))))
        assert 'of type .jpg' in text

    def test_without_labels(self, images):
        write_images(images / 'flat', '0.png')
        check_test(make(dict(data_prefix='flat', with_label=False)))
        (images / 'none').mkdir()
        assert 'no image' in error_of(make(dict(data_prefix='none', with_label=False)), check_test)


class TestLists:

    @pytest.fixture(autouse=True)
    def ann_file(self, images):
        self.path = images / 'list.txt'
        self.write('a/0.png 0', 'b/0.png 2')

    def write(self, *lines):
        self.path.write_text('\n'.join(lines) + '\n')

    def make(self, **dataset):
        return make(dict(ann_file='list.txt', **dataset))

    def test_fine(self):
        check_train(self.make())

    @pytest.mark.parametrize('line, message', (
        ('a/1.png 3', 'line 3: there is no class 3, labels count from 0.*3 classes, 0 to 2'),
        ('a/1.png -1', 'line 3: there is no class -1'),
        ('a/1.png', "line 3: 'a/1.png' is not of the form"),
        ('', "line 3: '' is not of the form"),
        ('a/1.png cat', 'line 3: .* with a number as label'),
    ))
    def test_lines(self, line, message):
        self.write('a/0.png 0', 'b/0.png 2', line)
        with pytest.raises(ConfigError, match=message):
            check_train(self.make())
        with pytest.raises(ConfigError, match=message):
            check_train(self.make(metainfo=dict(classes=('a', 'b', 'c'))))

    def test_empty(self):
        self.path.write_text('')
        assert 'list.txt is empty' in error_of(self.make())

    def test_paths_relative_to_something_else(self):
        self.write('train/a/0.png 0')
        text = error_of(self.make())
        assert 'first image' in text and 'train/train/a/0.png' in text and 'data_prefix' in text

    def test_spaces_in_names(self, images):
        write_images(images / 'train', 'a/x y.png')
        write_images(images / 'val', 'a/x y.png')
        self.write('a/x y.png 1')
        check_train(self.make())


class TestImageNet:

    def make(self, **top):
        return make(dict(type='ImageNet'), **{'model.head.num_classes': 1000, **top})

    def test_no_folder(self, images, tmp_path):
        text = error_of(make(dict(type='ImageNet', data_root='nowhere')))
        assert "train_dataloader.dataset.data_root='nowhere': no such folder" in text
        assert 'meta/train.txt' in text  # how it should look like

    def test_neither_train_nor_meta(self, images):
        (images / 'train').rename(images / 'training')
        text = error_of(self.make())
        assert "train_dataloader.dataset.data_prefix='train': no such folder" in text
        assert 'one folder a class' in text

    def test_folders_are_counted(self, images):
        text = error_of(self.make())
        assert 'its classes are 1000 (tench, goldfish, ' in text and 'holds 3 folder(s)' in text

    def test_list_in_meta(self, images):
        (images / 'meta').mkdir()
        for split in ('train', 'val'):
            (images / 'meta' / f'{split}.txt').write_text('a/0.png 999\n')
        check_train(self.make())
        (images / 'meta' / 'val.txt').write_text('a/0.png 1000\n')
        assert 'val.txt, line 1: there is no class 1000' in error_of(self.make())
        (images / 'meta' / 'val.txt').write_text('b/9.png 0\n')
        assert 'val/b/9.png' in error_of(self.make())
        text = error_of(self.make(**{'model.head.num_classes': 10}))
        assert 'has 1000 classes' in text and 'model.head.num_classes=10' in text


class TestClasses:

    def test_head(self, images):
        text = error_of(make(options=('model.head.num_classes=7', )))
        assert 'train_dataloader.dataset has 3 classes (a, b, c)' in text
        assert '--cfg-options model.head.num_classes=3,' in text

    @pytest.mark.needs_toolbox('mmpretrain')
    def test_fixed_as_the_message_says(self, images):
        top = {'data_preprocessor.num_classes': 7, 'model.head.num_classes': 7,
               'model.train_cfg.augments': [dict(type='Mixup', alpha=0.8)]}
        text = error_of(make(**top))
        options = text[text.index('--cfg-options') + 14:].split(',')[0].split()
        assert len(options) == 2
        check_train(make(options=options, **top))

    @pytest.mark.parametrize('number', (7, None))
    def test_mixup(self, images, number):
        top = {'data_preprocessor.num_classes': number}
        check_train(make(**top))  # nothing uses it
        top['model.train_cfg.augments'] = [dict(type='Mixup', alpha=0.8)]
        text = error_of(make(**top))
        assert f'data_preprocessor.num_classes={number}, by which mixup' in text
        check_test(make(**top))
        # the model's own takes precedence
        check_train(make(**{**top, 'model.data_preprocessor.num_classes': 3}))

    def test_data_set_whose_type_names_them(self, images):
        top = {'model.head.num_classes': 100}
        cfg = make(dict(type='CIFAR10', data_prefix='x'), **top)
        assert 'has 10 classes (airplane, ' in error_of(cfg)

    def test_classes_in_a_file(self, images):
        (images / 'classes.txt').write_text('a\nb\nc\n')
        check_train(make(dict(classes='data/classes.txt')))

    def test_wrapped(self, images):
        cfg = make()
        cfg.train_dataloader.dataset = dict(
            type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
        cfg.model.head.num_classes = 4
        assert 'train_dataloader.dataset.dataset has 3 classes' in error_of(cfg)


class TestOptions:

    @pytest.mark.parametrize('option, message', (
        ('growth.tmies=3', "growth has no option 'tmies'; the options are order, times"),
        ('growth.times=two', "growth.times must be an integer >= 1 .* got 'two'"),
        ('growth.times=1.5', 'growth.times must be an integer'),
        ('growth.times=(1,2,3)', r'model.backbone: growth.times=\[1, 2, 3\] holds 3 numbers for 2'),
        ('growth.times=(1,0)', r'growth.times must be an integer.*\(1, 0\)'),
        ('growth.depth=7', 'model.backbone: 2 blocks and growth.times=2 make 4 blocks, but'),
        ('growth.blocks=[5]', 'model.backbone: growth.blocks names block 5, but there are 2'),
        ('growth.blocks=1', 'growth.blocks must be a list'),
        ('growth.order=[[0,1,1],[0]]', 'growth.order holds 2 lists'),
        ('growth.order=[0,7]', 'block 7, but there are 2'),
        ('growth.start.share=0.5', 'growth.start'),
        ('growth=none', 'growth'),
        ('adjustment.rnak=8', "adjustment has no option 'rnak'; the options are type, rank"),
        ('adjustment.type=Lora', "'LoRA'"),
        ('grwoth.times=3', "no argument 'grwoth'; did you mean 'growth'"),
        ('drop_path=0.1', "model.backbone: ScaleNetViT has no argument 'drop_path'; did you mean "
                          "'drop_path_rate'"),
        ('type=ScaleNetVit', "'ScaleNetVit' is not registered in mmpretrain; did you mean "
                             "'ScaleNetViT'"),
        ('out_type=cls', 'out_type must be one of'),
        ('drop_path_rate=a', "model.backbone.drop_path_rate must be a number in .* got 'a'"),
        ('drop_path_rate=1.0', 'drop_path_rate must be a number in'),
    ))
    @pytest.mark.parametrize('check', (check_train, check_test))
    def test_before_a_folder_is_made(self, images, option, message, check):
        cfg = make(options=(f'model.backbone.{option}', ))
        with pytest.raises((ConfigError, GrowthError), match=message):
            check(cfg)
        assert not (images.parent / 'work').exists()

    @pytest.mark.parametrize('option, attribute', (
        ("growth.times='3'", dict(times=3)),
        ('growth.blocks=[1]', dict(blocks=[1])),
        ('growth.blocks=1,', dict(blocks=[1])),
        ('growth.blocks=(0,1)', dict(blocks=(0, 1))),
        ('growth.order=[[0,1,1]]', dict(order=[[0, 1, 1]])),
        ('growth.order=0,1,0', dict(order=[0, 1, 0])),
        ('growth.times=3,1', dict(times=[3, 1])),
        ('growth.times=(3,1)', dict(times=(3, 1))),
    ))
    def test_values_of_the_right_type(self, images, option, attribute):
        cfg = make(options=(f'model.backbone.{option}', ))
        check_train(cfg)
        assert cfg.model.backbone.growth == attribute

    def test_a_dict_in_the_place_of_a_word(self, images):
        top = {'model.backbone.growth.start': 'identity'}
        start = 'model.backbone.growth.start'
        options = [f'{start}.type=split', f'{start}.share=0.5', 'train_dataloader.batch_size=3']
        with pytest.raises(ConfigError) as error:
            make(options=options, **top)
        text = str(error.value)
        assert 'growth.start is no dict in the config' in text and 'batch_size' not in text
        added = text.split()[-1]  # as the message says
        assert added == 'model.backbone.growth.start._delete_=True'
        cfg = make(options=[added, *options], **top)
        assert cfg.model.backbone.growth.start == dict(type='split', share=0.5)
        check_train(cfg)

    def test_model(self, images):
        text = error_of(make(options=('model.bakbone.growth.times=2', )))
        assert "ImageClassifier has no argument 'bakbone'; did you mean 'backbone'" in text

    def test_hook(self, images):
        hooks = [dict(type='AdapterInjectionHook', freze='all', priority='HIGHEST')]
        text = error_of(make(custom_hooks=hooks))
        assert "custom_hooks.0: AdapterInjectionHook has no argument 'freze'" in text

    @pytest.mark.parametrize('freeze', ('papper', ['paper', 'papper']))
    def test_preset(self, images, freeze):
        cfg = make(custom_hooks=[dict(type='AdapterInjectionHook', freeze=freeze)])
        assert "freeze: unknown preset 'papper'; the presets are backbone-paper" in error_of(cfg)
        check_train(make(custom_hooks=[
            dict(type='AdapterInjectionHook', freeze=['paper', dict(train='x')])]))

    def test_hook_on_a_stock_backbone(self, images):
        stock = dict(type='VisionTransformer', arch=ARCH, img_size=8, patch_size=4)
        cfg = make(custom_hooks=[dict(type='AdapterInjectionHook', growth=dict(blocks=[5]))])
        cfg.model.backbone = stock
        assert 'AdapterInjectionHook: growth.blocks names block 5' in error_of(cfg)
        cfg.custom_hooks[0].growth.blocks = [1]
        check_train(cfg)
        cfg.model.backbone.drop_path = 0.1
        assert "VisionTransformer has no argument 'drop_path'" in error_of(cfg)

    def test_the_config_is_left_as_it_is(self, images):
        cfg = make()
        before = cfg.pretty_text
        check_train(cfg)
        assert cfg.pretty_text == before


class TestLearngene:

    @pytest.fixture
    def gene(self, images):
        """The learngene of a plain model, in the current folder."""
        cfg = make(**{'model.backbone.growth': None, 'model.backbone.adjustment': None})
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(cfg.model)
        save_file(dict(state_dict=model.state_dict()), 'plain.pth')
        save_gene(extract_gene('plain.pth', cfg), 'gene.pth')

    def make(self, *options):
        options = ['init_cfg.type=Learngene', 'init_cfg.checkpoint=gene.pth',
                   'backbone.num_layers=5', *options]
        return make(options=[f'model.{option}' for option in options])

    def test_one_that_fits(self, gene):
        check_train(self.make())

    @pytest.mark.parametrize('options, error, message', (
        (['init_cfg.checkpoint=none.pth'], CheckpointError,
         r"model.init_cfg.checkpoint: no such file: 'none.pth'; checkpoints there: gene.pth, pla"),
        (['init_cfg.checkpoint=plain.pth'], CheckpointError, 'plain.pth is no learngene'),
        (['init_cfg.order=cyclic'], GrowthError, "order must be one of .*got 'cyclic'"),
        (['init_cfg.order=random-sorted'], GrowthError, 'give a seed'),
        (['init_cfg.sed=3'], ConfigError, 'takes checkpoint, order, seed and head'),
        (['backbone.arch.num_heads=4'], CheckpointError, 'num_heads is 2, .* the backbone 4'),
        (['backbone.patch_size=8'], CheckpointError, 'patch_size is 4x4'),
        (['init_cfg.checkpoint=cut.pth'], CheckpointError, 'cut.pth. is cut off'),
    ))
    def test_before_a_folder_is_made(self, gene, images, options, error, message):
        content = (images.parent / 'gene.pth').read_bytes()
        (images.parent / 'cut.pth').write_bytes(content[:len(content) // 2])
        if 'cut' not in message:
            (images.parent / 'cut.pth').unlink()
        with pytest.raises(error, match=message):
            check_train(self.make(*options))
        assert not (images.parent / 'work').exists()

    def test_other_classes(self, gene, images):
        write_images(images / 'train', 'd/0.png')
        write_images(images / 'val', 'd/0.png')
        message = 'gene.pth has a head of 3 classes, and the model one of 4: set head=False'
        with pytest.raises(CheckpointError, match=message):
            check_train(self.make('head.num_classes=4'))
        check_train(self.make('head.num_classes=4', 'init_cfg.head=False'))
