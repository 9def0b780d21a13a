"""A store in, rows out: predictions read, checked, scored and joined; several sweeps as one."""
