# What ScaleNet adds to a Mask R-CNN recipe that starts from a trained detector. Adapters, gains and
# layer norms of the backbone train; the rest of it is frozen, and so are neck, RPN, box head and
# mask head, but for the box head's final layers, fc_cls and fc_reg. Further rules may follow the
# preset (the last one that matches a parameter decides), as for other classes:
#     freeze=['mask-rcnn', dict(train=r'roi_head\.mask_head\.conv_logits\.')]
# Training logs the resulting table before it starts.
custom_hooks = [dict(type='AdapterInjectionHook', freeze='mask-rcnn')]
