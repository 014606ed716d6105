"""Files whose unpickling makes a folder, in every format that torch reads."""
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace, )


class ByGetattr(Evil):
    """The same by the one ``getattr`` that mmengine's histories need."""

    def __reduce__(self):
        return getattr, (Evil(self.trace), 'min')


def training(evil=None, where=None):
    """A training checkpoint with something in one of its places."""
    checkpoint = dict(
        meta=dict(epoch=1, iter=2, cfg=''),
        state_dict={'w': torch.ones(2)},
        message_hub=dict(log_scalars={'loss': HistoryBuffer([0.5], [1])},
                         runtime_info={}, resumed_keys={}),
        optimizer=dict(state={}, param_groups=[]),
        ema_state_dict={'steps': torch.tensor(1)},
        random_states=[dict(torch=torch.zeros(2, dtype=torch.uint8))])
    if where == 'delta':
        checkpoint['delta'] = dict(format='scalenet-delta', version=evil)
    elif where == 'random_states':
        checkpoint[where].append(evil)
    elif where is not None:
        checkpoint[where]['x'] = evil
    return checkpoint


PLACES = ('meta', 'state_dict', 'message_hub', 'optimizer', 'ema_state_dict', 'random_states',
          'delta')


def saved(content, **kwargs):
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def tar(evil):
    """As torch wrote before 0.1.10."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name in ('sys_info', 'pickle', 'tensors', 'storages'):
            content = pickle.dumps(evil, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def archive_of(evil, *names):
    """An archive in torch's layout, without checksums, with the pickle under several names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name in names:
            archive.writestr(f'archive/{name}', pickle.dumps(evil, 2))
        archive.writestr('archive/version', '3\n')
    return file.getvalue()


#: What makes the bytes of a file from a folder that must not be made.
KINDS = {
    'alone': lambda trace: saved(Evil(trace)),
    **{f'in {place}': lambda trace, place=place: saved(training(Evil(trace), place))
       for place in PLACES},
    'as a key': lambda trace: saved({'state_dict': {'w': torch.ones(1)}, 'x': [(Evil(trace), )]}),
    'legacy': lambda trace: saved(training(Evil(trace), 'meta'),
                                  _use_new_zipfile_serialization=False),
    'pickle protocol 4': lambda trace: saved(training(Evil(trace), 'meta'), pickle_protocol=4),
    'plain pickle': lambda trace: pickle.dumps(training(Evil(trace), 'meta')),
    'plain pickle, protocol 0': lambda trace: pickle.dumps({'x': Evil(trace)}, 0),
    'tar': lambda trace: tar(Evil(trace)),
    'archive': lambda trace: archive_of(Evil(trace), 'data.pkl'),
    'TorchScript': lambda trace: archive_of(Evil(trace), 'data.pkl', 'constants.pkl'),
    'numpy': lambda trace: saved({'meta': np.array([Evil(trace)], dtype=object)}),
    'getattr': lambda trace: saved(ByGetattr(trace)),
    'history': lambda trace: saved(_history(trace)),
}


def _history(trace):
    history = HistoryBuffer([0.5], [1])
    history._statistics_methods = {'min': Evil(trace)}
    return {'message_hub': {'log_scalars': {'loss': history}}}


def write(path, trace, kind='in meta'):
    """Write such a file; the folder ``trace`` tells whether it was executed."""
    path.write_bytes(KINDS[kind](trace))
    return str(path)
