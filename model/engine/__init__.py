"""Many requests, one device: the queue, the running batch and the thread between them; import from the modules inside.

Nothing is imported here, so that ``model.engine.scheduler`` and ``model.engine.request`` stay free of torch.
"""
