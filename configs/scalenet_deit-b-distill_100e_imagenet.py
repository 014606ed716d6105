# DeiT-Base, ScaleNet, fine-tuned by distillation from LeViT-384, which the paper names as future
# work. alpha and tau are our choice: labels and teacher count alike, at the teacher's own softness.
_base_ = ['./scalenet_deit-b_100e_imagenet.py', './_base_/teacher_levit-384.py']

model = dict(
    _delete_=True, type='DistilledClassifier', alpha=0.5, tau=1.0,
    student={{_base_.model}},
    teacher={{_base_.teacher}},
    teacher_checkpoint={{_base_.teacher_checkpoint}})
