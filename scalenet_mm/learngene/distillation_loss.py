"""The loss of distillation."""
import torch

from ..errors import ConfigError


def check_weights(alpha: float, tau: float) -> None:
    """Check the two numbers of the loss.

    Args:
        alpha (float): The weight of the teacher.
        tau (float): The temperature.

    Raises:
        ConfigError: If alpha is outside of [0, 1] or tau is not a positive number.
    """
    for name, value in (('alpha', alpha), ('tau', tau)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f'DistilledClassifier: {name} must be a number, got {value!r}')
    if not 0 <= alpha <= 1:
        raise ConfigError(f'DistilledClassifier: alpha={alpha} must be in [0, 1]: it is the '
                          "teacher's weight, 1 - alpha that of the labels")
    if not 0 < tau < float('inf'):
        raise ConfigError(f'DistilledClassifier: the temperature tau={tau} must be greater than 0')


def soften(logits: torch.Tensor, tau: float) -> torch.Tensor:
    """torch.Tensor: The distribution of logits at a temperature."""
    return torch.softmax(logits / tau, dim=1)


def cross_entropy_to(student_logits: torch.Tensor, target: torch.Tensor,
                     tau: float) -> torch.Tensor:
    """Compute the cross entropy of a student's softened distribution to a given one.

    Args:
        student_logits (torch.Tensor): Of shape (batch, classes).
        target (torch.Tensor): Probabilities, of the same shape.
        tau (float): The temperature of the student's.

    Returns:
        torch.Tensor: The mean over the batch.
    """
    return -(target * torch.log_softmax(student_logits / tau, dim=1)).sum(dim=1).mean()


def soft_cross_entropy(student_logits: torch.Tensor, teacher_logits: torch.Tensor,
                       tau: float = 1.) -> torch.Tensor:
    """Compute the cross entropy between softened distributions (SWS, eqs. 2 to 4).

    It differs from the Kullback-Leibler divergence by the teacher's entropy, which has no gradient.

    Args:
        student_logits (torch.Tensor): Of shape (batch, classes).
        teacher_logits (torch.Tensor): Of the same shape; no gradient flows into them.
        tau (float): The temperature of both. Defaults to 1.

    Returns:
        torch.Tensor: The mean over the batch.
    """
    return cross_entropy_to(student_logits, soften(teacher_logits.detach(), tau), tau)
