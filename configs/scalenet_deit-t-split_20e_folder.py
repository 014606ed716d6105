# Half steps: an original and its repeat count half each.
_base_ = './scalenet_deit-t_20e_folder.py'

model = dict(
    backbone=dict(growth=dict(start=dict(_delete_=True, type='split', share=0.5))))
