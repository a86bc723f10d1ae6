"""How reading, graph training and look-up grow, on made-up graphs of up to tens of millions of edges."""

from eestudy.scale.synthetic import PlantedGraph, planted_graph, power_law_counts, recovered_groups

__all__ = ["PlantedGraph", "planted_graph", "power_law_counts", "recovered_groups"]
