"""A deployment on one machine, as files of Docker Compose."""
