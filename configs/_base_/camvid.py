# CamVid: 11 classes of street scenes, 480 x 360, in data/camvid with img_dir/{train,val}/*.jpg and
# ann_dir/{train,val}/*.png. All names here are its own, so this file stands in _base_ beside a
# recipe of another data set; upernet_scalenet_swin-t_2k_camvid.py lays it over ADE20K's.
camvid_classes = ('sky', 'building', 'pole', 'road', 'sidewalk', 'tree', 'sign', 'fence', 'car',
                  'pedestrian', 'bicyclist')
camvid_palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222],
                  [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
                  [0, 128, 192]]
# Pixels of no class have label 11 in the files, where mmseg expects 255. So this number stands
# wherever mmseg has an ignore_index, and where images are padded.
camvid_void = 11
camvid_crop = (320, 320)

camvid_train = dict(
    type='BaseSegDataset',
    data_root='data/camvid',
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    metainfo=dict(classes=camvid_classes, palette=camvid_palette),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='RandomResize', scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=camvid_crop, cat_max_ratio=0.75,
             ignore_index=camvid_void),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs')
    ])
camvid_val = dict(
    type='BaseSegDataset',
    data_root='data/camvid',
    data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
    metainfo=dict(classes=camvid_classes, palette=camvid_palette),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(480, 360), keep_ratio=True),
        # after Resize: predictions are brought back to the size of the labels
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs')
    ])
camvid_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index=camvid_void)
camvid_preprocessor = dict(size=camvid_crop, seg_pad_val=camvid_void)
camvid_head = dict(num_classes=len(camvid_classes), ignore_index=camvid_void)

# 2000 iterations of 8 images are 44 epochs. PolyLR ends with the training, however long.
camvid_loop = dict(type='IterBasedTrainLoop', max_iters=2000, val_interval=500)
camvid_schedule = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=0., power=1., by_epoch=False, begin=50),
]
camvid_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=500, save_best='mIoU', max_keep_ckpts=1))
