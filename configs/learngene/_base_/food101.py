# Food-101: data/food-101 holds images/ and meta/, as mmpretrain reads it.
_base_ = './transfer.py'

train_dataloader = dict(dataset=dict(type='Food101', data_root='data/food-101'))
val_dataloader = dict(dataset=dict(type='Food101', data_root='data/food-101', split='test'))
test_dataloader = val_dataloader
data_preprocessor = dict(num_classes=101)
model = dict(head=dict(num_classes=101))
