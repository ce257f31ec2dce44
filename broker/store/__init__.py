"""Where inputs, videos and checkpoints lie: a folder or an S3 bucket."""
