# UPerNet with the grown Swin-T on images and label maps of your own (_base_/mask_folder.py), from
# ImageNet weights: adapters, gains, norms and the heads train for 8000 iterations. A config that
# inherits from this one names the folder and the classes (docs/your_own_task.md).
_base_ = ['./upernet_scalenet_swin-t_in1k-pre_160k_ade20k.py', './_base_/mask_folder.py']

# the pretrained function to begin with: a small data set does not win back what the paper's start
# loses
model = dict(backbone=dict(growth=dict(start='identity'), drop_path_rate=0.1))

train_dataloader = dict(batch_size=4, dataset=_base_.folder_train)
val_dataloader = dict(dataset=_base_.folder_val)
test_dataloader = val_dataloader
tta_pipeline = _base_.folder_tta

train_cfg = _base_.folder_loop
param_scheduler = _base_.folder_schedule
optim_wrapper = dict(optimizer=dict(lr=5e-4))
default_hooks = _base_.folder_hooks
