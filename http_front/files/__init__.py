"""Files of finished jobs, from a folder or a bucket."""
