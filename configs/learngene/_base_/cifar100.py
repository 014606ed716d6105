# CIFAR-100, which mmpretrain downloads and reads as RGB; as with files, the pipeline works on BGR.
_base_ = './transfer.py'

to_bgr = [dict(type='NumpyToPIL'), dict(type='PILToNumpy', to_bgr=True)]
train_dataloader = dict(
    dataset=dict(
        type='CIFAR100', data_root='data/cifar100', pipeline=to_bgr + _base_.train_pipeline[1:]))
val_dataloader = dict(
    dataset=dict(
        type='CIFAR100', data_root='data/cifar100', split='test',
        pipeline=to_bgr + _base_.test_pipeline[1:]))
test_dataloader = val_dataloader
data_preprocessor = dict(num_classes=100)
model = dict(head=dict(num_classes=100))
