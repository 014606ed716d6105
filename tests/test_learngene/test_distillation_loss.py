"""The loss against formulas that are written out here, in double precision."""
import math

import pytest
import torch

from scalenet_mm.errors import ConfigError
from scalenet_mm.learngene.distillation_loss import check_weights, soft_cross_entropy


def by_hand(student, teacher, tau):
    """The mean of -sum p_t log p_s, one number at a time."""
    total = 0.
    for s, t in zip(student.tolist(), teacher.tolist()):
        s, t = ([math.exp(v / tau) for v in row] for row in (s, t))
        total -= sum(b / sum(t) * math.log(a / sum(s)) for a, b in zip(s, t))
    return total / len(student)


@pytest.mark.parametrize('tau', [0.5, 1., 4.])
def test_by_hand(tau):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(5, 7, generator=generator, dtype=torch.float64)
                        for _ in range(2))
    assert float(soft_cross_entropy(student, teacher, tau)) == pytest.approx(
        by_hand(student, teacher, tau), rel=1e-12)


def test_it_is_least_where_the_student_is_the_teacher():
    teacher = torch.randn(4, 6, dtype=torch.float64)
    student = (teacher + 5.).requires_grad_()  # the same distribution
    soft_cross_entropy(student, teacher, 2.).backward()
    assert student.grad.abs().max() < 1e-12


def test_no_gradient_flows_into_the_teacher():
    teacher = torch.randn(4, 6, requires_grad=True)
    soft_cross_entropy(torch.randn(4, 6, requires_grad=True), teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize('alpha, tau, what', [
    (-0.1, 1., 'alpha=-0.1 must be in'), (1.1, 1., 'alpha=1.1 must be in'),
    (float('nan'), 1., 'alpha=nan'), (0.5, 0., 'tau=0'), (0.5, -1, 'tau=-1'),
    (0.5, float('inf'), 'tau=inf'), ('0.5', 1., 'alpha must be a number'),
    (0.5, None, 'tau must be a number'), (True, 1., 'alpha must be a number')])
def test_numbers_that_cannot_be_meant(alpha, tau, what):
    with pytest.raises(ConfigError, match=what):
        check_weights(alpha, tau)


@pytest.mark.parametrize('alpha, tau', [(0, 1), (1, 0.1), (0.5, 20)])
def test_numbers_that_can(alpha, tau):
    check_weights(alpha, tau)
