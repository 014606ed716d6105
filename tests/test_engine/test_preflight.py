"""What is found before anything long starts, and how it is said."""
import re
import shutil

import pytest
import torch
from data_toys import write_coco
from mmengine.config import Config

from scalenet_mm.engine import preflight
from scalenet_mm.engine.preflight import (
    check_checkpoint,
    check_data,
    check_devices,
    check_growth,
    check_test,
    check_toolbox,
    check_train,
    find_missing_data,
)
from scalenet_mm.errors import CheckpointError, ConfigError, GrowthError


@pytest.fixture
def det_data(tmp_path, monkeypatch):
    """The files that the detection config names."""
    write_coco(tmp_path / 'data/det', 'train')
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'data/det'


def keys(cfg, *splits):
    return [missing.key for missing in find_missing_data(cfg, splits)]


def dataset_cfg(**dataset):
    return Config(dict(train_dataloader=dict(dataset=dataset)))


class TestData:

    def test_all_there(self, det_data, make_cfg):
        check_data(make_cfg('mmdet'), ('train', 'val', 'test'))

    def test_one_message_for_all(self, det_data, make_cfg):
        (det_data / 'annotations/train.json').unlink()
        shutil.rmtree(det_data / 'train')
        with pytest.raises(ConfigError) as error:
            check_data(make_cfg('mmdet'), ('train', 'val'))
        text = str(error.value)
        where = det_data / 'annotations/train.json'
        assert f"dataset.ann_file='annotations/train.json': no such file: {where}" in text
        assert f"dataset.data_prefix.img='train/': no such folder: {det_data}" in text
        fixes = text[text.index('--cfg-options'):]
        for key in ('train_dataloader.dataset.ann_file=FILE',
                    'train_dataloader.dataset.data_prefix.img=FOLDER',
                    'val_dataloader.dataset.ann_file=FILE', 'val_evaluator.ann_file=FILE'):
            assert key in fixes

    @pytest.mark.parametrize('scope', ('mmpretrain', 'mmdet', 'mmseg'))
    def test_missing_root_stands_for_what_is_below(self, tmp_path, monkeypatch, make_cfg, scope):
        monkeypatch.chdir(tmp_path)
        assert keys(make_cfg(scope), 'train') == ['train_dataloader.dataset.data_root']

    def test_fixed_as_the_message_says(self, det_data, make_cfg):
        cfg = make_cfg('mmdet')
        cfg.train_dataloader.dataset.data_root = '/nowhere/at/all'
        message = pytest.raises(ConfigError, check_data, cfg, ('train', )).value.args[0]
        key = re.search(r'--cfg-options (\S+)=FOLDER', message).group(1)
        cfg.merge_from_dict({key: str(det_data)})
        check_data(cfg, ('train', ))

    @pytest.mark.parametrize('wrap, inner', (
        (lambda d: dict(type='RepeatDataset', times=2, dataset=d), 'dataset'),
        (lambda d: dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=d), 'dataset'),
        (lambda d: dict(type='MultiImageMixDataset', dataset=d, pipeline=[]), 'dataset'),
        (lambda d: dict(type='ConcatDataset', datasets=[dict(type='X'), d]), 'datasets.1'),
        (lambda d: dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[d])),
         'dataset.datasets.0'),
    ))
    def test_wrappers(self, tmp_path, wrap, inner):
        cfg = Config(dict(train_dataloader=dict(dataset=wrap(
            dict(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json')))))
        key = f'train_dataloader.dataset.{inner}.ann_file'
        assert keys(cfg, 'train') == [key]
        # the key is one that --cfg-options takes
        cfg.merge_from_dict({key: __file__})
        assert keys(cfg, 'train') == []

    @pytest.mark.parametrize('dataset', (
        dict(type='CocoDataset', data_root='s3://bucket/coco', ann_file='a.json'),
        dict(type='CocoDataset', data_root='data/coco', backend_args=dict(backend='petrel')),
        dict(type='CocoDataset', ann_file='https://host/a.json'),
        dict(type='CIFAR10', data_root='data/cifar10'),
        dict(type='X'),
    ))
    def test_not_local(self, tmp_path, monkeypatch, dataset):
        monkeypatch.chdir(tmp_path)
        assert keys(dataset_cfg(**dataset), 'train') == []

    def test_images_through_another_backend(self, tmp_path):
        cfg = dict(
            type='CocoDataset', data_root=str(tmp_path), data_prefix=dict(img='train/'),
            pipeline=[dict(type='LoadImageFromFile', backend_args=dict(backend='lmdb'))])
        assert keys(dataset_cfg(**cfg), 'train') == []
        cfg['pipeline'][0]['backend_args'] = None
        assert keys(dataset_cfg(**cfg), 'train') == ['train_dataloader.dataset.data_prefix.img']

    def test_no_download(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cfg = dataset_cfg(type='mmpretrain.CIFAR10', data_root='data/cifar10', download=False)
        assert keys(cfg, 'train') == ['train_dataloader.dataset.data_root']

    def test_absolute_path_below_a_missing_root(self, tmp_path):
        cfg = dataset_cfg(data_root=str(tmp_path / 'no'), ann_file=str(tmp_path / 'a.json'))
        assert keys(cfg, 'train') == ['train_dataloader.dataset.data_root',
                                      'train_dataloader.dataset.ann_file']

    def test_several_metrics(self, tmp_path):
        cfg = Config(dict(test_evaluator=[dict(type='A'), dict(type='B', ann_file='/no/b.json')]))
        assert keys(cfg, 'test') == ['test_evaluator.1.ann_file']


class TestCheckpoint:

    def test_missing_names_those_that_are_there(self, tmp_path):
        (tmp_path / 'epoch_12.pth').write_text('')
        with pytest.raises(CheckpointError, match=r'^load_from: no such file.*epoch_12.pth'):
            check_checkpoint(str(tmp_path / 'epoch_13.pth'), 'load_from')

    def test_truncated(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.save(dict(a=torch.zeros(1000)), path)
        check_checkpoint(str(path), 'load_from')
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(CheckpointError, match='cut off'):
            check_checkpoint(str(path), 'load_from')

    @pytest.mark.parametrize('content, message', (
        (b'', 'is empty'), (b'\n<!DOCTYPE html>', 'web page'),
        (b'version https://git-lfs.github.com/spec/v1', 'Git LFS')))
    def test_no_checkpoint(self, tmp_path, content, message):
        path = tmp_path / 'a.pth'
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            check_checkpoint(str(path), 'load_from')

    def test_legacy_format(self, tmp_path):
        path = tmp_path / 'a.pth'
        torch.save(dict(a=torch.zeros(3)), path, _use_new_zipfile_serialization=False)
        check_checkpoint(str(path), 'load_from')

    def test_url(self):
        check_checkpoint('https://host/a.pth', 'load_from')
        check_checkpoint(None, 'load_from')


class TestCommands:

    def test_train(self, det_data, make_cfg):
        cfg = make_cfg('mmdet', work_dir='w')
        check_train(cfg)
        with pytest.raises(CheckpointError, match='^load_from: no such file'):
            check_train(make_cfg('mmdet', work_dir='w', load_from='no.pth'))
        with pytest.raises(CheckpointError, match='^--resume: no such file'):
            check_train(make_cfg('mmdet', work_dir='w', load_from='no.pth', resume=True))
        with pytest.raises(ConfigError, match='no train_dataloader'):
            check_train(make_cfg('mmdet', work_dir='w', train_dataloader=None))

    def test_last_checkpoint_that_has_gone(self, det_data, make_cfg, tmp_path):
        (tmp_path / 'w').mkdir()
        (tmp_path / 'w/last_checkpoint').write_text('w/epoch_9.pth')
        with pytest.raises(CheckpointError, match='last_checkpoint.*epoch_9.pth'):
            check_train(make_cfg('mmdet', work_dir='w', resume=True))

    def test_validation_data_only_if_it_validates(self, det_data, make_cfg):
        cfg = make_cfg('mmdet', work_dir='w')
        cfg.val_dataloader.dataset.ann_file = 'no.json'
        with pytest.raises(ConfigError, match='val_dataloader.dataset.ann_file'):
            check_train(cfg)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        check_train(cfg)

    def test_test(self, det_data, make_cfg):
        torch.save({}, 'a.pth')
        check_test(make_cfg('mmdet', work_dir='w', load_from='a.pth', train_dataloader=None))
        with pytest.raises(CheckpointError, match='^checkpoint: no such file'):
            check_test(make_cfg('mmdet', work_dir='w', load_from='b.pth'))

    @pytest.mark.parametrize('scheduler, end', (
        (dict(type='PolyLR', begin=1500, by_epoch=False), 'max_iters'),
        (dict(type='MultiStepLR', begin=20), 'max_epochs'),
        (dict(type='LinearLR', begin=3, end=3), None)))
    @pytest.mark.parametrize('listed', (True, False))
    def test_a_schedule_behind_the_end(self, det_data, make_cfg, scheduler, end, listed):
        first = dict(type='LinearLR', begin=0, end=1500, by_epoch=False)
        cfg = make_cfg('mmdet', work_dir='w',
                       param_scheduler=[first, scheduler] if listed else scheduler)
        cfg.train_cfg = dict(by_epoch=end != 'max_iters', **{end or 'max_epochs': 20})
        key = 'param_scheduler.1' if listed else 'param_scheduler'
        with pytest.raises(ConfigError) as error:
            check_train(cfg)
        text = str(error.value)
        assert text.startswith(f'{key}: {scheduler["type"]} begins') and f'{key}.begin=0' in text
        assert ('train_cfg.' in text) == (end is not None)
        (cfg.param_scheduler[1] if listed else cfg.param_scheduler).begin = 0
        check_train(cfg)

    def test_work_dir_is_a_file(self, det_data, make_cfg):
        with pytest.raises(ConfigError, match='work_dir.*is a file'):
            check_train(make_cfg('mmdet', work_dir=__file__))


class TestMachine:

    def test_toolbox(self, monkeypatch):
        monkeypatch.setattr(preflight, 'find_spec', lambda name: None)
        with pytest.raises(ConfigError, match='pip install (onedl-)?mmsegmentation;'):
            check_toolbox(Config(dict(default_scope='mmseg')))
        check_toolbox(Config(dict()))

    @pytest.mark.parametrize('launcher', ('pytorch', 'slurm', 'mpi'))
    def test_launcher_that_did_not_launch(self, launcher):
        with pytest.raises(ConfigError, match=f'--launcher {launcher}.*not started'):
            check_devices(Config(dict(launcher=launcher)))

    def test_more_processes_than_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
        monkeypatch.setenv('RANK', '2')
        monkeypatch.setenv('LOCAL_RANK', '2')
        with pytest.raises(ConfigError, match='local rank 2, 2 GPU'):
            check_devices(Config(dict(launcher='pytorch')))
        monkeypatch.setenv('LOCAL_RANK', '1')
        check_devices(Config(dict(launcher='pytorch')))

    def test_amp_without_gpu(self, monkeypatch):
        cfg = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper')))
        monkeypatch.setattr(preflight, 'get_device', lambda: 'cpu')
        with pytest.raises(ConfigError, match='needs a GPU'):
            check_devices(cfg)
        monkeypatch.setattr(preflight, 'get_device', lambda: 'cuda')
        check_devices(cfg)


class TestPretrained:

    @pytest.mark.parametrize('model, key', [
        (dict(init_cfg=dict(type='Pretrained', checkpoint='nope.pth')), 'model'),
        (dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='nope.pth'))),
         'model.backbone'),
        (dict(backbone=dict(type='GrownBackbone', base=dict(init_cfg=[
            dict(type='TruncNormal', layer='Linear'),
            dict(type='Pretrained', checkpoint='nope.pth')]))), 'model.backbone.base'),
    ])
    def test_a_file_that_is_not_there(self, model, key):
        with pytest.raises(CheckpointError, match=f'^{key}.init_cfg.checkpoint: no such file'):
            preflight._check_pretrained(model)
        preflight._check_pretrained(dict(init_cfg=dict(
            type='Pretrained', checkpoint='https://example.org/a.pth')))

    def test_before_a_folder_is_made(self, make_cfg, tmp_path):
        cfg = make_cfg('mmdet', work_dir=str(tmp_path / 'work'))
        cfg.model.backbone = dict(
            type='ScaleNetSwin', init_cfg=dict(type='Pretrained', checkpoint='nope.pth'))
        with pytest.raises(CheckpointError, match='model.backbone.init_cfg.checkpoint'):
            check_train(cfg)
        assert not (tmp_path / 'work').exists()


class TestGrowth:

    @pytest.mark.parametrize('options, message', [
        (dict(growth=dict(times=0)), 'growth.times must be an integer >= 1'),
        (dict(growth=dict(tmies=2)), "growth has no option 'tmies'"),
        (dict(adjustment=dict(rank=0)), 'adjustment.rank must be an integer >= 1'),
    ])
    @pytest.mark.parametrize('place', ['backbone', 'hook'])
    def test_before_a_folder_is_made(self, make_cfg, tmp_path, options, message, place):
        cfg = make_cfg('mmdet', work_dir=str(tmp_path / 'work'))
        if place == 'backbone':
            cfg.model.backbone = dict(type='ScaleNetSwin', **options)
        else:
            cfg.custom_hooks = [dict(type='AdapterInjectionHook', **options)]
        with pytest.raises(GrowthError, match=message):
            check_train(cfg)
        assert not (tmp_path / 'work').exists()

    def test_words_and_stock_backbones_are_left_alone(self):
        check_growth(Config(dict(model=dict(backbone=dict(type='ScaleNetViT', growth='paper')))))
        check_growth(Config(dict(model=dict(backbone=dict(type='ResNet', growth=dict(x=1))))))
