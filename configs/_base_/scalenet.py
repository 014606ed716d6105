# Registers ScaleNetSwin, ScaleNetViT, AdapterInjectionHook and the rest with all toolboxes.
custom_imports = dict(imports=['scalenet_mm'])
