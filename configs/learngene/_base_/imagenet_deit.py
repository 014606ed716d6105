# How the nets of stage-wise weight sharing (arXiv 2404.16897) train on ImageNet. The paper gives
# the epochs alone; the rest are the commands its authors published, which are those of DeiT's
# official script: 512 images (here 8 GPUs x 64), AdamW 5e-4, 5 epochs of warm-up, cosine to 1e-5.
_base_ = '../../scratch/_base_/imagenet_deit-24_300e.py'

train_dataloader = dict(batch_size=64)
auto_scale_lr = dict(base_batch_size=512)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(max_epochs=100)
