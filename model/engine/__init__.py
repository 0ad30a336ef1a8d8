"""Many requests, one device: the queue, the workers and the batch of each; import from the modules inside.

Nothing is imported here, so that ``model.engine.scheduler`` and ``model.engine.request`` stay free of torch.
"""
