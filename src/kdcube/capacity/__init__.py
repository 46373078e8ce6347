"""How much it takes to carry a load: formulas that plan, and a simulation that shows what happens over time."""
