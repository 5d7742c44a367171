"""Parts that the tests, the demo and the benchmarks share: processes, namespaces, vmsgrd, Ceph. Stdlib only."""
