# What ScaleNet adds to a Mask R-CNN recipe that starts from a trained detector.
# What trains: rules in order, the last one that matches a parameter decides. Training logs the
# resulting table before it starts.
custom_hooks = [
    dict(
        type='AdapterInjectionHook',
        freeze=[
            # adapters, gains and layer norms of the backbone train, the rest of it does not
            'backbone-paper',
            # neck, RPN, RoI head and mask head: frozen ...
            dict(freeze=r'(?!backbone\.)'),
            # ... except the final classification and regression layers
            dict(train=r'roi_head\.bbox_head\.(fc_cls|fc_reg)\.'),
        ])
]
