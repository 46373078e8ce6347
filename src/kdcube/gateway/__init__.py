"""What stands before every service: who calls, how much they may, how errors are told."""
