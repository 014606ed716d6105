"""Curves of several runs, from logs as mmengine writes them."""
import json

import pytest
import torch
from mmengine.config import Config

from scalenet_mm.analysis import ValidationLoss
from scalenet_mm.analysis.curves import (
    choose_keys,
    final_values,
    make_labels,
    moving_average,
    plot_curves,
    read_run,
)
from scalenet_mm.errors import ConfigError


def write(folder, stamp, records, **cfg):
    path = folder / stamp / 'vis_data'
    path.mkdir(parents=True)
    (path / 'scalars.json').write_text(
        ''.join(r if isinstance(r, str) else json.dumps(r) + '\n' for r in records))
    if cfg:
        Config(cfg).dump(path / 'config.py')
    return str(folder)


def epochs(first, last, offset=0., iters=4):
    """Two training records and one evaluation an epoch."""
    for epoch in range(first, last + 1):
        for i in (2, 4):
            step = (epoch - 1) * iters + i
            yield dict(lr=0.1, loss=offset + step, time=1., epoch=epoch, iter=step, step=step)
        yield {'accuracy/top1': offset + 10. * epoch, 'time': 2., 'step': epoch}


def backbone(rate, arch='deit-s', **more):
    return dict(model=dict(backbone=dict(type='X', arch=arch, drop_path_rate=rate)), **more)


class TestReading:

    def test_one_start(self, tmp_path):
        run = read_run(write(tmp_path, '1', epochs(1, 3)))
        assert run.by_epoch
        assert run.curve('accuracy/top1') == [(1, 10.), (2, 20.), (3, 30.)]
        assert run.curve('loss') == [(1, 3.), (2, 7.), (3, 11.)]  # means of the epochs
        assert run.train['loss'] == [(1, 2.), (1, 4.), (2, 6.), (2, 8.), (3, 10.), (3, 12.)]

    def test_resumed(self, tmp_path):
        write(tmp_path, '20260101_000000', epochs(1, 4))
        # stopped in its fifth epoch, resumed behind the third, and this twice
        write(tmp_path, '20260102_000000', epochs(4, 6, offset=100))
        write(tmp_path, '20260103_000000', epochs(6, 7, offset=200))
        run = read_run(str(tmp_path))
        assert run.curve('accuracy/top1') == [
            (1, 10.), (2, 20.), (3, 30.), (4, 140.), (5, 150.), (6, 260.), (7, 270.)]
        assert [x for x, _ in run.train['loss']] == [e for e in range(1, 8) for _ in '12']
        assert run.curve('loss')[2:5] == [(3, 11.), (4, 115.), (5, 119.)]

    def test_stopped_before_the_first_evaluation(self, tmp_path):
        write(tmp_path, '1', epochs(1, 4))
        write(tmp_path, '2', list(epochs(3, 3, offset=100))[:1])
        run = read_run(str(tmp_path))
        assert run.curve('accuracy/top1') == [(1, 10.), (2, 20.)]
        assert run.train['loss'][-1] == (3, 110.)

    def test_started_anew(self, tmp_path):
        write(tmp_path, '1', epochs(1, 4))
        write(tmp_path, '2', epochs(1, 2, offset=100))
        assert read_run(str(tmp_path)).curve('accuracy/top1') == [(1, 110.), (2, 120.)]

    def test_tests_and_broken_lines_are_left_out(self, tmp_path):
        write(tmp_path, '1', [*epochs(1, 2), '{"accuracy/top1": 3'])
        write(tmp_path, '2', [{'accuracy/top1': 99., 'step': 0}])
        write(tmp_path, '3', [])
        assert read_run(str(tmp_path)).curve('accuracy/top1') == [(1, 10.), (2, 20.)]

    def test_by_iteration(self, tmp_path):
        def records(start, stop, offset=0):
            for step in range(start, stop + 1, 50):
                yield dict(lr=0.1, loss=offset + step, iter=step, step=step)
                if step % 100 == 0:
                    yield dict(mIoU=offset + step / 100, step=step)

        write(tmp_path, '1', records(50, 300))
        write(tmp_path, '2', records(250, 400, 1000))
        run = read_run(str(tmp_path))
        assert not run.by_epoch
        assert run.curve('mIoU') == [(100, 1.), (200, 2.), (300, 1003.), (400, 1004.)]
        assert run.curve('loss')[3:5] == [(200, 200), (250, 1250)]

    def test_a_start_alone(self, tmp_path):
        write(tmp_path, '1', epochs(1, 2))
        write(tmp_path, '2', epochs(3, 4))
        assert read_run(str(tmp_path / '1')).curve('accuracy/top1') == [(1, 10.), (2, 20.)]

    def test_no_log(self, tmp_path):
        with pytest.raises(ConfigError, match='no such folder'):
            read_run(str(tmp_path / 'no'))
        with pytest.raises(ConfigError, match='no .*scalars.json'):
            read_run(str(tmp_path))
        write(tmp_path, '1', [dict(mIoU=1., step=0)])
        with pytest.raises(ConfigError, match='no training'):
            read_run(str(tmp_path))


class TestDrawing:

    def runs(self, tmp_path, *cfgs):
        return [read_run(write(tmp_path / f'run{i}', '1', epochs(1, 3, offset=i), **cfg))
                for i, cfg in enumerate(cfgs)]

    def test_labels(self, tmp_path):
        def labels(name, *cfgs):
            return make_labels(self.runs(tmp_path / name, *cfgs))

        assert labels('a', backbone(0.), backbone(0.2)) == ['drop path 0', 'drop path 0.2']
        assert labels('b', backbone(0.1, 'deit-s'), backbone(0.2, 'deit-b')) == [
            'deit-s, drop path 0.1', 'deit-b, drop path 0.2']
        grown = dict(model=dict(backbone=dict(type='GrownBackbone', base=dict(drop_path_rate=0.4))))
        assert labels('c', backbone(0.1, ''), grown) == ['drop path 0.1', 'drop path 0.4']
        assert labels('d', backbone(0.1, randomness=dict(seed=1), work_dir='a'),
                      backbone(0.1, randomness=dict(seed=2), work_dir='b')) == ['seed=1', 'seed=2']
        assert labels('e', backbone(0.1, x=1, y=1), backbone(0.1, x=2, y=2)) == ['run0', 'run1']
        assert labels('f', backbone(0.1), backbone(0.2, x=1), backbone(0.2, x=2)) == [
            'drop path 0.1', 'drop path 0.2 (run1)', 'drop path 0.2 (run2)']
        assert labels('g', {}, backbone(0.1)) == ['run0', 'run1']

    def test_keys(self, tmp_path):
        runs = self.runs(tmp_path, {}, {})
        assert choose_keys(runs) == ['accuracy/top1', 'loss']
        for run in runs:
            run.val['cross_entropy'] = [(1, 1.)]
        assert choose_keys(runs) == ['accuracy/top1', 'cross_entropy']
        assert choose_keys(runs, ['lr']) == ['lr']
        with pytest.raises(ConfigError, match="no 'mIoU'.*accuracy/top1, cross_entropy, loss, lr"):
            choose_keys(runs, ['mIoU'])

    def test_smoothing(self):
        points = [(0, 0.), (1, 3.), (2, 0.), (3, 3.), (4, 0.)]
        assert moving_average(points, 1) == points
        assert moving_average(points, 3) == [(0, 0.), (1, 1.), (2, 2.), (3, 1.), (4, 0.)]
        line = [(x, 2. * x) for x in range(9)]
        assert moving_average(line, 5) == line  # a straight line stays one, at its ends, too

    def test_final(self, tmp_path):
        runs = self.runs(tmp_path, backbone(0.2), backbone(0.1), {}, backbone(0., 'a'))
        runs[0].val['accuracy/top1'][1] = (2, 50.)
        assert final_values(runs, 'accuracy/top1') == [
            ('a', 0., 33., 33.), ('deit-s', 0.1, 31., 31.), ('deit-s', 0.2, 30., 50.)]

    def test_lines_drawn(self, tmp_path, monkeypatch):
        from matplotlib.figure import Figure
        drawn = []
        monkeypatch.setattr(Figure, 'savefig', lambda figure, path, **kw: drawn.append(figure))
        runs = self.runs(tmp_path, backbone(0.), backbone(0.2))
        plot_curves(runs, ['x', 'y'], ['accuracy/top1', 'loss'], 'a.png')
        accuracy, loss = drawn[0].axes
        assert [line.get_label() for line in accuracy.lines] == ['x', 'y']
        assert accuracy.lines[1].get_ydata().tolist() == [11., 21., 31.]
        assert loss.lines[0].get_ydata().tolist() == [3., 7., 11.]
        assert (accuracy.get_ylabel(), loss.get_ylabel()) == (
            'top-1 accuracy (%)', 'training loss')
        assert accuracy.get_xlabel() == 'epoch'


def test_validation_loss():
    logits = torch.tensor([[2., 0., 1.], [0., 0., 5.], [1., 1., 1.]])
    labels = torch.tensor([0, 2, 1])
    metric = ValidationLoss()
    for rows in ([0, 1], [2]):
        metric.process(None, [
            dict(pred_score=logits[i].softmax(0), gt_label=labels[i:i + 1]) for i in rows])
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metric.evaluate(3)['cross_entropy'] == pytest.approx(expected, rel=1e-6)
    metric.process(None, [dict(pred_score=torch.tensor([0., 1.]), gt_label=torch.tensor([0]))])
    assert 80 < metric.evaluate(1)['cross_entropy'] < 90  # finite
