"""Models that were grown from a file and trained, and what to compare."""
import torch

from scalenet_mm.checkpoints import load_pretrained, make_delta
from scalenet_mm.checkpoints.base_files import open_base
from scalenet_mm.checkpoints.delta import describe_growth, write_checkpoint
from scalenet_mm.growth import apply_freezing

DIMS = dict(swin=32, vit=24)


class Classifier(torch.nn.Module):
    """A backbone with a head, named as in the toolboxes."""

    def __init__(self, backbone, dims, classes=3):
        super().__init__()
        self.backbone = backbone
        self.head = torch.nn.Module()
        self.head.fc = torch.nn.Linear(dims, classes)
        self.norm = torch.nn.BatchNorm1d(dims)  # its statistics move

    def forward(self, x):
        x = self.backbone(x)[-1]
        x = x.mean((2, 3)) if x.ndim == 4 else x
        return self.head.fc(self.norm(x))


def train(model, seed=0):
    """Change all that trains, and the statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if 'running' in name:
                buffer += torch.rand(buffer.shape, generator=generator)
    return model.eval()


def trained_names(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def grown_classifier(make, base=None, seed=0, classes=3, **growth):
    """A classifier grown from a file and trained by the paper's rules."""
    growth = {'growth': 'paper', 'adjustment': 'paper', **growth}
    backbone = make(seed=seed + 100, **growth)
    model = Classifier(backbone, DIMS[backbone.key_family], classes)
    if base is not None:
        load_pretrained(backbone, base)
    apply_freezing(model, 'backbone-paper')
    return train(model, seed)


def checkpoint_of(model, **more):
    state = model.state_dict()
    for key in state:
        state[key] = state[key].clone()
    return {'meta': {'epoch': 3, 'iter': 12, 'dataset_meta': {'classes': ('a', 'b', 'c')}},
            'state_dict': state, **more}


def delta_of(model, base, **more):
    return make_delta(checkpoint_of(model, **more), open_base(base), trained_names(model),
                      describe_growth(model))


def save_delta_of(model, base, path, **more):
    write_checkpoint(delta_of(model, base, **more), str(path))
    return str(path)


def assert_same_tensors(one, other):
    assert list(one) == list(other)
    for key, value in one.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key
