custom_imports = dict(imports=['scalenet_toy'])

model = dict(type='ToyRegressor')
data_root = 'data/toy/'
dataset = dict(type='ToyDataset', data_root=data_root, ann_file='ann.json', data_prefix=dict())
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dataset)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(type='ToyError')
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=2)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
custom_hooks = [dict(type='ToyDumpHook')]
randomness = dict(seed=1)
