"""Fine-tuning methods, one file each; installed as `petl_bench.methods`."""
