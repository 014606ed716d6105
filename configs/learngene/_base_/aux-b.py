# Auxiliary nets of DeiT-Base: stages of one block each (num_layers), used as often as growth.times
# says, whose uses share everything, norms too.
_base_ = './deit-b.py'
model = dict(backbone=dict(growth=dict(_delete_=True, share='all')))
