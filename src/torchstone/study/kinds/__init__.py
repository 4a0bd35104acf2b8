"""What the job queue can do: one file for each kind of job."""
