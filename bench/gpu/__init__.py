"""What only a GPU can tell, stage by stage; bench/gpu.sh runs it."""
