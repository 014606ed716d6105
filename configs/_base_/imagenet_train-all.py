# What trains in DeiT-Tiny and DeiT-Small, and from scratch: every parameter (section III-C).
custom_hooks = [dict(type='AdapterInjectionHook', freeze='all')]
