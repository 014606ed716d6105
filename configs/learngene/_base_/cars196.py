# Stanford Cars: data/stanford_cars holds car_ims/ and cars_annos.mat, as mmpretrain reads it.
_base_ = './transfer.py'

train_dataloader = dict(dataset=dict(type='StanfordCars', data_root='data/stanford_cars'))
val_dataloader = dict(
    dataset=dict(type='StanfordCars', data_root='data/stanford_cars', split='test'))
test_dataloader = val_dataloader
data_preprocessor = dict(num_classes=196)
model = dict(head=dict(num_classes=196))
