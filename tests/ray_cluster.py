"""A Ray cluster of two nodes with one core each, as a process of its own: for tests/test_ray.py.

Prints its address; a line on standard input takes the second node away, the end of it ends all.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
