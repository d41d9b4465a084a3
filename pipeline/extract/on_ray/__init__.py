"""The executor of a Ray cluster: decode, model and writer actors on its nodes, and the flow of work between them."""

from pipeline.extract.on_ray.executor import RayExecutor

__all__ = ["RayExecutor"]
