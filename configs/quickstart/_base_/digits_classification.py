# Classification of handwritten digits, for mmpretrain. Make the data first (some seconds, no
# download):
#     python tools/dataset_converters/digit_scenes.py
_base_ = '../../_base_/image_folder.py'

data_root = 'data/digit_scenes/cls/'
image_size = 64
metainfo = dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))

data_preprocessor = dict(num_classes=10)

# No flips: a mirrored digit is none.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size),
    dict(type='RandomCrop', crop_size=image_size, padding=4),  # pads black: the ground is dark
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size),
    dict(type='PackInputs')
]

train_dataloader = dict(
    dataset=dict(
        data_root=data_root, with_label=True, metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(data_root=data_root, with_label=True, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(topk=(1, 5))
test_evaluator = val_evaluator
