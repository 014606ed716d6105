# A folder of images of your own with COCO annotations, for mmdet: annotations/{train,val}.json,
# train/ and val/. All names here are its own, so this file stands in _base_ beside a recipe of
# another data set; maskrcnn_scalenet_swin-t_12e_folder.py lays it over COCO's, whose pipelines
# stay. A config that inherits from that one sets train_dataloader and the like; to set names of
# this file there has no effect.
folder_train = dict(
    data_root='data/my_objects',
    ann_file='annotations/train.json',
    data_prefix=dict(img='train/'))
folder_val = dict(
    data_root='data/my_objects',
    ann_file='annotations/val.json',
    data_prefix=dict(img='val/'))
folder_metric = dict(ann_file='data/my_objects/annotations/val.json')

# warm-up over the first epoch, and an end with the training, however long
folder_schedule = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, convert_to_iter_based=True),
]
folder_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=1, save_best='coco/segm_mAP', max_keep_ckpts=1))
