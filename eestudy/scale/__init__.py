"""How training and look-up of the graph grow, on made-up graphs of up to tens of millions of edges."""

from eestudy.scale.synthetic import PlantedGraph, planted_graph, power_law_counts, recovered_groups

__all__ = ["PlantedGraph", "planted_graph", "power_law_counts", "recovered_groups"]
