"""What the speed benchmark measures with: calls in turn, ratios, fits, bytes kept for backward."""
import contextlib
import gc
from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn

from scalenet_mm.analysis.latency import measure_latency

#: Kinds of operations of a training step, by the beginnings of their names, in this order.
KINDS = {
    'matrix products': ('aten::addmm', 'aten::mm', 'aten::bmm', 'aten::baddbmm', 'aten::matmul',
                        'aten::linear', 'aten::mkldnn_linear', 'mkldnn::_linear_pointwise'),
    'attention': ('aten::_scaled_dot_product', 'aten::scaled_dot_product',
                  'aten::_flash_attention', 'aten::_efficient_attention'),
    'convolution': ('aten::mkldnn_convolution', 'aten::convolution', 'aten::_convolution',
                    'aten::cudnn_convolution'),
    'norms': ('aten::native_layer_norm', ),
    'activations': ('aten::gelu', 'aten::relu', 'aten::threshold_backward', 'aten::clamp'),
    'softmax': ('aten::_softmax', ),
    'additions and products': ('aten::add', 'aten::mul', 'aten::sum', 'aten::sub', 'aten::div'),
    'copies': ('aten::copy_', 'aten::cat', 'aten::clone', 'aten::roll', 'aten::index',
               'aten::fill_', 'aten::zero_', 'aten::constant_pad'),
}
GEMMS = KINDS['matrix products']


@contextlib.contextmanager
def no_collection():
    """Collect no garbage by itself before the end.

    What is there now is set aside, so that a collection in between is quick.
    """
    gc.freeze()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def in_turn(calls: dict, rounds: int, warmup: int = 2) -> dict:
    """Time several calls in turn, every second round backwards.

    So no call always runs behind the same other one, whose freed memory it would be given.

    Args:
        calls (dict[str, Callable]): What to time, by name.
        rounds (int): How often each is timed.
        warmup (int): How often each is called before. Defaults to 2.

    Returns:
        dict[str, list[float]]: Seconds of each round, by name.
    """
    times = {name: [] for name in calls}
    backwards = dict(reversed(calls.items()))
    gc.collect()
    with no_collection():
        for i in range(warmup + rounds):
            measured = measure_latency(backwards if i % 2 else calls, rounds=1, warmup=0)
            if i >= warmup:
                for name, seconds in measured.items():
                    times[name] += seconds
            gc.collect()  # between the rounds, where no clock runs
    return times


def ratio(times: list, reference: list) -> dict:
    """The ratios of one round's times: slow rounds are slow for both.

    Args:
        times (list[float]): Seconds of each round.
        reference (list[float]): Those of the one that is compared with, round for round.

    Returns:
        dict[str, float]: ``ratio``, their median, and ``low`` and ``high``, their quartiles.
    """
    low, middle, high = np.quantile(np.divide(times, reference), [0.25, 0.5, 0.75])
    return dict(ratio=float(middle), low=float(low), high=float(high))


def line_fit(x: list, y: list) -> dict:
    """Fit a line by least squares.

    Args:
        x (list[float]): At least two different values.
        y (list[float]): As many.

    Returns:
        dict[str, float]: ``slope``, ``intercept`` and ``r2``, the part of the variance that the
        line explains (1 where there is none).
    """
    slope, intercept = np.polyfit(x, y, 1)
    residual = np.subtract(y, slope * np.asarray(x) + intercept)
    around = np.subtract(y, np.mean(y))
    total = float(around @ around)
    r2 = 1. - float(residual @ residual) / total if total > 1e-24 else 1.
    return dict(slope=float(slope), intercept=float(intercept), r2=r2)


# --- bytes ---------------------------------------------------------------------------------------


def _storage(tensor):
    return tensor.untyped_storage()


def _nbytes(storages):
    return sum(storage.nbytes() for storage in storages.values())


def kept_bytes(model: nn.Module, forward: Callable) -> dict:
    """Count the bytes that autograd keeps between the forward and the backward pass.

    Args:
        model (nn.Module): Its parameters and buffers are left out.
        forward (Callable): Runs it and returns the tensors that backward starts from.

    Returns:
        dict[str, int]: ``kept``: whole storages, each once, that the saved-tensor hooks see;
        ``made``: those of them, and of the outputs, that were not there before; ``hidden``: the
        storages of tensors that are alive after the forward pass, were not before, and are
        neither: on an attribute of an autograd function, say. Python's garbage collector does not
        see what C++ alone holds; :func:`allocated_bytes` does.
    """
    own = {_storage(t).data_ptr() for t in (*model.parameters(), *model.buffers())}
    seen = {}

    def pack(tensor):
        storage = _storage(tensor)
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage  # held, so that no other takes its address
        return tensor

    forward()  # caches are filled now
    before = own | {_storage(t).data_ptr() for t in _tensors_alive()}
    with no_collection():
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = forward()
        gc.collect()
        found = {**seen, **{_storage(t).data_ptr(): _storage(t) for t in outputs}}
        # all but those that no_collection() set aside
        alive = {_storage(t).data_ptr(): _storage(t) for t in _tensors_alive()}
    made = {address: storage for address, storage in found.items() if address not in before}
    hidden = {address: storage for address, storage in alive.items()
              if address not in before and address not in found}
    return dict(kept=_nbytes(seen), made=_nbytes(made), hidden=_nbytes(hidden))


def _tensors_alive():
    # type() and not isinstance(), which asks lazy objects for their __class__; of an earlier export
    # or compilation there may be tensors without storage: fake ones and functional ones
    return [thing for thing in gc.get_objects()
            if type(thing) in (torch.Tensor, nn.Parameter) and thing.layout == torch.strided
            and thing.device.type != 'meta' and not torch._is_functional_tensor(thing)]


def allocated_bytes(forward: Callable, device: str = 'cpu') -> int:
    """Measure what a forward pass has allocated and not freed, by the allocator's own account.

    Call it after another forward pass, so that what is made once is made.

    Args:
        forward (Callable): Runs the model and returns the tensors that backward starts from.
        device (str): Where. Defaults to 'cpu'.

    Returns:
        int: The bytes, whoever holds them.
    """
    if device == 'cuda':
        before = torch.cuda.memory_allocated()
        outputs = forward()
        return torch.cuda.memory_allocated() - before if outputs else 0
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        outputs = forward()  # held to the end
    del outputs
    return sum(event.nbytes() for event in run.profiler.kineto_results.events()
               if event.name() == '[memory]' and event.device_type().name == 'CPU')


# --- where the time goes -------------------------------------------------------------------------


def profile_kinds(step: Callable, rank: int, repeats: int = 3) -> dict:
    """Tell where the time of a call goes.

    Args:
        step (Callable): The call.
        rank (int): Width of the adapters: a matrix product with such an edge is theirs. Columns
            that the fast paths put into a wide product are not told apart from it.
        repeats (int): How often it runs. Defaults to 3.

    Returns:
        dict[str, float]: Seconds a call of each kind of operation, the most first; the operations
        of no kind are 'other'.
    """
    from torch.profiler import ProfilerActivity, profile
    step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True,
                 acc_events=True) as run:
        for _ in range(repeats):
            step()
    kinds = {}
    for event in run.key_averages(group_by_input_shape=True):
        kind = kind_of(event.key, event.input_shapes, rank)
        seconds = event.self_cpu_time_total / 1e6 / repeats
        kinds[kind] = kinds.get(kind, 0.) + seconds
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def kind_of(name: str, shapes: list, rank: int) -> str:
    """str: The kind of an operation, by its name and the shapes of its inputs."""
    if name.startswith(GEMMS):
        edges = [edge for shape in shapes if isinstance(shape, (list, tuple)) for edge in shape]
        return "adapters' matrix products" if rank in edges else 'matrix products'
    for kind, starts in KINDS.items():
        if name.startswith(starts):
            return kind
    return 'other'


def linear_products(model: nn.Module, forward: Callable, linear: Callable) -> list:
    """Collect the matrix products of a frozen model's linear layers, to be run alone.

    Args:
        model (nn.Module): The model.
        forward (Callable): Runs it.
        linear (Callable): Computes ``x W^T + b`` of ``(x, W, b)``.

    Returns:
        list[Callable]: For every call of a linear layer that product, and ``g W``, the gradient of
        its input. The gradients of the weights are not among them, nor are the adapters.
    """
    calls = []

    def note(module, args, output):
        calls.append((module, args[0].shape, output.shape))

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    forward()
    for handle in handles:
        handle.remove()
    filled = {}  # one tensor a shape: contents do not matter, and memory stays small
    products = []
    for module, *shapes in calls:
        weight = module.weight.detach()
        bias = None if module.bias is None else module.bias.detach()
        for shape in shapes:
            filled.setdefault(shape, torch.randn(shape, device=weight.device, dtype=weight.dtype))
        x, gradient = (filled[shape] for shape in shapes)
        products.append(lambda x=x, w=weight, b=bias: linear(x, w, b))
        products.append(lambda g=gradient, w=weight: linear(g, w.t(), None))
    return products
