# What ScaleNet adds to a recipe that starts from ImageNet weights: neck and heads are new, so
# they train; of the backbone adapters, gains and norms do.
_base_ = './scalenet.py'

custom_hooks = [dict(type='AdapterInjectionHook', freeze='backbone-paper')]
