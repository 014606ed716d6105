"""Two processes on the CPU resume as if they had not stopped, each with its own random numbers."""
import sys
from pathlib import Path

import resume_in_processes
from resume_toys import STOP, differences, ends, random_classifier, write_config
from test_two_processes import ROOT, start

from scalenet_mm.checkpoints.safe import load_file


def test_by_the_launch_script(tmp_path):
    config = write_config(
        random_classifier(randomness=dict(seed=0, diff_rank_seed=True)), tmp_path)

    def run(folder, *options, **variables):
        command = [str(ROOT / 'tools' / 'dist_train.sh'), config, '2', '--work-dir',
                   str(tmp_path / folder), *options]
        done = start(command, tmp_path, **variables)
        assert (done.returncode == 0) == (not variables), done.stderr[-3000:]

    run('whole')
    run('stopped', **{STOP: '4'})
    states = load_file(str(tmp_path / 'stopped' / 'epoch_2.pth'))['random_states']
    run('stopped', '--resume')
    whole = ends(tmp_path, 'whole', 2)
    assert differences(whole, ends(tmp_path, 'stopped', 2)) == []
    for one, other in (states, [end['random'] for end in whole]):
        assert set(differences(one, other)) >= {'.torch', '.python.numbers', '.numpy.keys'}


def test_deltas_and_the_other_toolboxes(digits, tmp_path):
    # all in one launch: starting takes longer than they do
    done = start([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                  '--local_addr=127.0.0.1', '--nproc_per_node=2', resume_in_processes.__file__,
                  str(digits), str(tmp_path)], Path(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    raw = load_file(str(tmp_path / 'segmentor_stopped' / 'epoch_2.pth'))
    assert 'decode_head.fpn_bottleneck.bn.running_mean' in raw['delta']['map']
    for name in resume_in_processes.STOPS:
        whole = ends(tmp_path, f'{name}_whole', 2)
        assert differences(whole, ends(tmp_path, f'{name}_stopped', 2)) == [], name
        assert differences(whole[0]['model'], whole[1]['model']) == []
