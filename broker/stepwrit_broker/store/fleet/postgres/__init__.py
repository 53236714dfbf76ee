"""The true engine on PostgreSQL: what was acknowledged is here, whatever becomes of everything else."""
