"""The part of the speed benchmark that only a GPU can run: peak memory and the largest batch."""
import _speed_models as models
import torch
from _speed_sections import OURS, other_form, row, within

CASES = (models.DEIT_BASE, models.SWIN_BASE)


def largest_batch(measure, start=4, limit=4096) -> dict:
    """Double the batch until it does not fit, then halve the last step: to an eighth of it.

    Args:
        measure (Callable[[int], dict]): Measures a batch; raises ``torch.OutOfMemoryError`` if it
            does not fit.
        start (int): The first batch. Defaults to 4.
        limit (int): The last. Defaults to 4096.

    Returns:
        dict[int, dict]: What was measured, by batch, up to the largest that fits.
    """
    found = {}

    def fits(batch):
        try:
            found[batch] = measure(batch)
        except torch.OutOfMemoryError:
            return False
        return True

    batch = start
    while batch <= limit and fits(batch):
        batch *= 2
    if found and batch <= limit:
        last = max(found)
        for part in (2, 4, 8):
            if last >= part:
                fits(max(found) + last // part)
    return dict(sorted(found.items()))


def measure_batch(bench, model, size, batch, rounds=5) -> dict:
    """dict: Median ``seconds``, ``images_per_second`` and ``peak`` bytes of a training step."""
    from _speed_measure import in_turn
    cuda = bench.device == 'cuda'
    model.zero_grad(set_to_none=True)  # of a batch that did not fit
    if cuda:
        torch.cuda.empty_cache()
    step = bench.step(model, bench.images(size.image, batch))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = sorted(in_turn({'step': step}, rounds)['step'])[rounds // 2]
    peak = torch.cuda.max_memory_allocated() if cuda else None
    model.zero_grad(set_to_none=True)
    return dict(seconds=seconds, images_per_second=batch / seconds, peak=peak)


def batches(bench) -> dict:
    """Training steps of ever larger batches, ours and mmpretrain's trained in full."""
    rows, measured = [], {}
    limit = 8 if bench.quick else 4096
    for size in CASES:
        size = bench.size(size)
        stock = 'mmpretrain, trained in full'
        found = measured[size.grown(2)] = {}
        for name, build in ((OURS, models.ours), (stock, models.stock)):
            # one at a time: the other's memory must not stand in the way
            model = bench.build(name, lambda: build(size))
            found[name] = largest_batch(
                lambda batch: measure_batch(bench, model, size, batch), limit=limit)
            if name == OURS:
                other, context = other_form(bench.device)
                found[other] = largest_batch(
                    within(context, lambda batch: measure_batch(bench, model, size, batch)),
                    limit=limit)
            model = None  # free for the next one
            bench.say(f'  {size.grown(2)}, {name}: up to {max(found[name], default=0)} images')
        for name, of in found.items():
            common = max(set(found[OURS]) & set(of), default=None)
            if name == OURS or common is None:
                continue
            us, them = found[OURS][common], of[common]
            for what, key in (('seconds a step', 'seconds'), ('peak memory', 'peak')):
                if them[key]:
                    value = us[key] / them[key]
                    rows.append(row(size.grown(2), f'{what}, batch {common}', name,
                                    dict(ratio=value, low=value, high=value)))
            value = max(found[OURS]) / max(of)
            rows.append(row(size.grown(2), 'largest batch', name,
                            dict(ratio=value, low=value, high=value)))
    return dict(rows=rows, batches=measured)
