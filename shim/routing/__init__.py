"""How a mixed batch is run: the route of a call, and what makes it exact or refused."""
