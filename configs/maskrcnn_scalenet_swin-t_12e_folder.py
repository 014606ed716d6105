# Mask R-CNN with the grown Swin-T on images of your own with COCO annotations
# (_base_/coco_folder.py), from ImageNet weights: adapters, gains, norms, neck and heads train for
# 12 epochs. A config that inherits from this one names the folder and the classes
# (docs/your_own_task.md).
_base_ = ['./maskrcnn_scalenet_swin-t_in1k-pre_1x_coco.py', './_base_/coco_folder.py']

# the pretrained function to begin with: a small data set does not win back what the paper's start
# loses
model = dict(backbone=dict(growth=dict(start='identity')))

train_dataloader = dict(dataset=_base_.folder_train)
val_dataloader = dict(dataset=_base_.folder_val)
test_dataloader = val_dataloader
val_evaluator = _base_.folder_metric
test_evaluator = val_evaluator

param_scheduler = _base_.folder_schedule
default_hooks = _base_.folder_hooks
