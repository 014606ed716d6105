# What trains in the larger models: adapters, gains and norms of the backbone (eq. 10), and the
# last linear layer of the classifier, as the final layers of detectors and segmentors do. In the
# paper's strict reading the classifier is frozen, too: freeze='paper-strict'.
custom_hooks = [dict(type='AdapterInjectionHook', freeze='paper')]
