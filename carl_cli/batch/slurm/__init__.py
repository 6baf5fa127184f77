"""A batch on a Slurm cluster: submitted as an array, checked on the node, watched, cancelled."""
