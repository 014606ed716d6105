"""The loss on the validation set, which mmpretrain's loops do not compute."""
from typing import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class ValidationLoss(BaseMetric):
    """Mean cross entropy of a classifier's predictions, without smoothing or mixing of labels.

    The training loss of runs that differ in drop path or augmentation can't be compared, as these
    make training itself harder; this one can. It is logged as ``cross_entropy``: what has 'loss' in
    its name, mmengine averages over the last ten evaluations.

    Args:
        collect_device (str): See :class:`mmengine.evaluator.BaseMetric`. Defaults to 'cpu'.
        prefix (str, optional): See there. Defaults to None.
    """

    default_prefix = ''

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Take a batch's scores (after softmax) and labels.

        Args:
            data_batch: The batch; not used.
            data_samples (Sequence[dict]): Predictions with 'pred_score' and 'gt_label'.
        """
        for sample in data_samples:
            label = torch.as_tensor(sample['gt_label']).flatten()
            score = sample['pred_score'].double()[label].sum()  # of one label, usually
            # a score of 0 is one that single precision could not tell from it
            self.results.append(-torch.log(score.clamp_min(1e-38)).item())

    def compute_metrics(self, results: list) -> dict:
        """dict[str, float]: The mean."""
        return dict(cross_entropy=sum(results) / len(results))
