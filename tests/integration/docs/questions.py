"""Questions with the file, or files, that answer each: what the bundle must cite first. 36 of the 40 are enough."""

from __future__ import annotations

PROJECT = (
    ("What is KDCube?", "README.md"),
    ("How do I start the system?", "README.md"),
    ("Which command shows the logs of the services?", "README.md"),
    ("Which ports does ingress listen on?", "README.md"),
    ("Where are data, logs and secrets kept?", "README.md"),
    ("How do I use my own PostgreSQL server with TLS?", "README.md"),
    ("What is a fence?", "docs/glossary.md"),
    ("What does lingering mean?", "docs/glossary.md"),
    ("What is a doorbell?", "docs/glossary.md"),
    ("What is a byte credit?", "docs/glossary.md"),
    ("What happens when a bundle host dies?", "ARCHITECTURE.md"),
    ("What happens if PostgreSQL is away?", "ARCHITECTURE.md", "docs/reliability.md"),
    ("Which package may import the Valkey clients?", "ARCHITECTURE.md"),
    ("How long is a lease?", "ARCHITECTURE.md"),
    ("How can a bundle read a secret?", "examples/README.md"),
    ("How do I cite a source in my bundle?", "examples/README.md"),
    ("How long may a handler ignore its cancellation?", "examples/README.md"),
    ("How are dependencies locked?", "docs/decisions/0008-lock-file-without-addresses.md"),
    ("Why is there one reader for each log?", "docs/decisions/0005-one-reader-per-log.md"),
    ("Why asyncpg?", "docs/decisions/0003-postgres-driver-and-grouped-commits.md"),
)

CORPUS = (
    ("How much may a hotel in Zurich cost?", "handbook/travel.md"),
    ("How do I get my money back for a taxi ride?", "handbook/travel.md"),
    ("When is a flight in premium economy allowed?", "handbook/travel.md"),
    ("How many days of vacation do I have?", "handbook/leave.md"),
    ("When do I need a doctor's certificate?", "handbook/leave.md"),
    ("How long can parental leave be?", "handbook/leave.md"),
    ("How do I install the development tools?", "handbook/onboarding.md"),
    ("Who gives me a badge on Monday?", "handbook/onboarding.md"),
    ("How do I add a DNS record?", "network/dns.rst"),
    ("For how many days are certificates of the internal authority valid?", "network/dns.rst"),
    ("How do I open a port in the firewall?", "network/firewall.html"),
    ("From where can I reach port 22?", "network/firewall.html"),
    ("What must I do when my device was stolen?", "network/vpn.html"),
    ("Do video calls go through the VPN tunnel?", "network/vpn.html"),
    ("How do I descale the coffee machine?", "manuals/coffee-machine.pdf"),
    ("What does error E7 mean?", "manuals/coffee-machine.pdf"),
    ("How can I store the height of my desk?", "manuals/standing-desk.pdf"),
    ("When is food in the fridge thrown away?", "recipes/kitchen.txt"),
    ("When must I enter my wish for pizza?", "recipes/kitchen.txt"),
    ("How often should I water the cactus?", "recipes/plants.txt"),
)

OFF_TOPIC = (
    "How do I bake sourdough bread?",
    "Who won the football world cup in 1998?",
    "What is the capital of Mongolia?",
    "How do I train a neural network on a GPU?",
    "Can I pay by credit card?",
    "How do I reset my iPhone?",
    "What will the weather be like tomorrow?",
    "Does it support Oracle databases?",
    "Recommend me a good novel about dragons.",
    "What is the boiling point of mercury?",
)
"""No folder here says anything about these."""
