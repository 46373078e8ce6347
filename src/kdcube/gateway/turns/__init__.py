"""From a message to an accepted turn, and cancels: for every service that takes messages."""
