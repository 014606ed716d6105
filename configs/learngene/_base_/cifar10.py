# CIFAR-10, which mmpretrain downloads and reads as RGB; as with files, the pipeline works on BGR.
_base_ = './transfer.py'

to_bgr = [dict(type='NumpyToPIL'), dict(type='PILToNumpy', to_bgr=True)]
train_dataloader = dict(
    dataset=dict(
        type='CIFAR10', data_root='data/cifar10', pipeline=to_bgr + _base_.train_pipeline[1:]))
val_dataloader = dict(
    dataset=dict(
        type='CIFAR10', data_root='data/cifar10', split='test',
        pipeline=to_bgr + _base_.test_pipeline[1:]))
test_dataloader = val_dataloader
data_preprocessor = dict(num_classes=10)
model = dict(head=dict(num_classes=10))
