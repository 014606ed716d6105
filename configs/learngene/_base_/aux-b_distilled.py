# The auxiliary nets of DeiT-Base, distilled from LeViT-384. The paper leaves the weight of the
# soft loss (alpha) and the temperature (tau) open; these are its authors' commands: the soft loss
# alone. Both losses, half and half: --cfg-options model.alpha=0.5
_base_ = ['./aux-b.py', '../../_base_/teacher_levit-384.py']
model = dict(
    _delete_=True,
    type='DistilledClassifier',
    student={{_base_.model}},
    teacher={{_base_.teacher}},
    teacher_checkpoint={{_base_.teacher_checkpoint}},
    alpha=1.0,
    tau=1.0)
