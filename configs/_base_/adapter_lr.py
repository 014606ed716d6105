# Learning rates for recipes that train the backbone at a tenth of the head's rate, so that
# pretrained weights do not move far. These are frozen here. Adapters and gains are new, as the head
# is, and learn at its rate; norms are pretrained and keep the tenth, those of repeats too, which
# the stock recipes cannot name. Gains and norms do not decay.
# Used as custom_keys=_base_.adapter_lr. The longest key that is part of a parameter's name counts,
# so these are longer than 'backbone'.
adapter_lr = {
    '.adapter_down': dict(lr_mult=1.),
    '.adapter_up': dict(lr_mult=1.),
    '.w_msa.proj.gain': dict(lr_mult=1., decay_mult=0.),
    '.ffn.layers.1.gain': dict(lr_mult=1., decay_mult=0.),
    # of blocks; then of outputs, of the patch embedding and between stages
    '.norm1.weight': dict(lr_mult=0.1, decay_mult=0.),
    '.norm1.bias': dict(lr_mult=0.1, decay_mult=0.),
    '.norm2.weight': dict(lr_mult=0.1, decay_mult=0.),
    '.norm2.bias': dict(lr_mult=0.1, decay_mult=0.),
    'backbone.norm': dict(lr_mult=0.1, decay_mult=0.),
    'backbone.patch_embed.norm': dict(lr_mult=0.1, decay_mult=0.),
    '.downsample.norm': dict(lr_mult=0.1, decay_mult=0.),
}
