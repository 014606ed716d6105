# A folder of images and label maps of your own, for mmseg: img_dir/{train,val} with images,
# ann_dir/{train,val} with a PNG of the same name for each, whose values are the labels: 0 for the
# first class, 1 for the next, 255 for pixels that are ignored. All names here are its own, so this
# file stands in _base_ beside a recipe of another data set; upernet_scalenet_swin-t_8k_folder.py
# lays it over ADE20K's. A config that inherits from that one sets train_dataloader and the like;
# to set names of this file there has no effect.
folder_crop = (512, 512)

folder_train = dict(
    type='BaseSegDataset',
    data_root='data/my_scenes',
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        # the short side is 256 to 1024 pixels, and the crop 512: a small image is filled up
        dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=folder_crop, cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs')
    ])
folder_val = dict(
    type='BaseSegDataset',
    data_root='data/my_scenes',
    data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(2048, 512), keep_ratio=True),
        # after Resize: predictions are brought back to the size of the labels
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs')
    ])

# --tta: six sizes about that of folder_val, each flipped and not
folder_tta = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
             for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
            # the first view is not flipped: its label map is the truth
            [dict(type='RandomFlip', prob=0., direction='horizontal'),
             dict(type='RandomFlip', prob=1., direction='horizontal')],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ]),
]

folder_loop = dict(type='IterBasedTrainLoop', max_iters=8000, val_interval=1000)
# PolyLR runs from the start to the end of the training, however long
folder_schedule = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=0., power=1., by_epoch=False),
]
folder_hooks = dict(
    checkpoint=dict(interval=1000, save_best='mIoU', max_keep_ckpts=1))
